"""The architectures: one file each, found through `registry`."""
