"""What a training run needs of a machine, computed before it runs: memory, time, refusals."""
