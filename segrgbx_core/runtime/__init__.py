"""Inference: a checkpoint and samples in, predictions out."""
