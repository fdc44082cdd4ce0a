"""The explorer: pages over what a deployment holds, read through the SDK alone."""
