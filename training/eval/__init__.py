"""Scores of checkpoints on data sets, and their reports."""
