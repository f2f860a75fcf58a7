"""Stage 1: MA-CLIP, contrastive training of the LoRA pool."""
