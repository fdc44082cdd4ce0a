"""The training step of the TopK family in compiled loops: see `fast.step`."""
