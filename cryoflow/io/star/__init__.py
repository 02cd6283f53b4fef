"""STAR files, and the tables of RELION and Xmipp in them."""
