"""Rays without scenes: vectors, pinhole cameras, ray tracing, Fresnel optics."""
