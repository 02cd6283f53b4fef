"""Where bytes lie: local files, HTTP ranges, other file systems; the block cache and downloads."""
