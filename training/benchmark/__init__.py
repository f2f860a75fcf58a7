"""The synthetic benchmark: its arms, scores with their spread, and its page."""
