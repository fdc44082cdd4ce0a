"""What each feature fires on: collected in one pass, kept as a bundle, read back."""
