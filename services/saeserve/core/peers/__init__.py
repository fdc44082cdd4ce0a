"""Models in the files of other libraries: read without running anything, written to load there."""
