"""The training loop: schedules, state, checkpoints; yields typed events, knows no logger."""
