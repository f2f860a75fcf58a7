"""Stage 2: segmentation beside a frozen MA-CLIP."""
