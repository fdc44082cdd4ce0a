"""The training step on a GPU: what the card does at best, whether we are right there, how fast."""
