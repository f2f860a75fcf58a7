"""One more modality in a trained checkpoint: learned, stored apart, merged with others."""
