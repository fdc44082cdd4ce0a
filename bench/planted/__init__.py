"""Planted data: rows whose true features are known, and how much of them a dictionary recovers."""
