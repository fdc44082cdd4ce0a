"""The command line: `saeserve …`, a client of the same API as everybody."""
