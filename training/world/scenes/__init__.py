"""Streets and rooms of the rendered world."""
