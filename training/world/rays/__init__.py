"""Rays, cameras and shading of the renderer."""
