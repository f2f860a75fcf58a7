"""Geometry and objects of the rendered world."""
