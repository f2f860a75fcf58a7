"""Textures and patterns of surfaces in the rendered world."""
