"""What every architecture's spec says: hyper-parameters and torch-free facts."""
