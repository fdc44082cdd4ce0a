"""Frozen, torch-free descriptions of what to train, harvest, ingest and evaluate."""
