"""Scoring a checkpoint on data sets: views, readings of mIoU, reports, what others published."""
