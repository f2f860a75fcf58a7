"""Data sets, augmentation and the joint mixture."""
