"""What the figures show: embeddings as a map, stages as heat maps, predictions as panels."""
