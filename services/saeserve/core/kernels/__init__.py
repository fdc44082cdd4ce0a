"""Compiled loops for the CPU, and what they share. Imports torch, numpy and numba alone."""
