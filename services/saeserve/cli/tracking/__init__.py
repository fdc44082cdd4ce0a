"""Curves of jobs to trackers of experiments, which are installed with extras of their own."""
