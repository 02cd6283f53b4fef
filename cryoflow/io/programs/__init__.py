"""Tables of other programs: Frealign, cisTEM, EMAN2, SPIDER, crYOLO, Topaz, Warp and EPU."""
