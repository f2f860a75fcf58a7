"""Figures of the paper, drawn from checkpoints."""
