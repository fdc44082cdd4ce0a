"""How fast our training step is, beside other libraries and beside the machine: `make bench`."""
