"""How fast our training step is, compared with other libraries and with the machine:
`make bench`."""
