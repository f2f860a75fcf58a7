"""Fresnel's equations for smooth dielectrics, as powers and as degrees of linear polarization."""

from __future__ import annotations

import numpy as np

from training.world.rays.vectors import Floats, dot


def fresnel(cosine: Floats, ior: Floats) -> tuple[Floats, Floats]:
    """Reflected shares of light polarized across (s) and in (p) the plane of incidence.

    Args:
        cosine: of the angle between ray and normal, in [0, 1].
        ior: refractive index of the surface against air; 1 reflects nothing.
    """
    s, p = fresnel_amplitudes(cosine, ior)
    return np.square(s), np.square(p)


def fresnel_amplitudes(cosine: Floats, ior: Floats) -> tuple[Floats, Floats]:
    """Reflected field amplitudes r_s and r_p; p axes are k x s before and after reflection."""
    cos = np.clip(cosine, 1e-4, 1.0)
    squared = np.square(ior)
    root = np.sqrt(np.maximum(squared - 1 + cos * cos, 0))
    s = (cos - root) / (cos + root)
    p = (squared * cos - root) / (squared * cos + root)
    return s.astype(np.float32), p.astype(np.float32)


def specular_dolp(cosine: Floats, ior: Floats) -> Floats:
    """Degree of linear polarization of unpolarized light once mirrored; E is across the plane."""
    s, p = fresnel(cosine, ior)
    return (s - p) / np.maximum(s + p, 1e-9)


def diffuse_dolp(cosine: Floats, ior: Floats) -> Floats:
    """Degree of linear polarization of light that comes out of a smooth body; E lies in the plane.

    Source: Wolff and Boult 1991; Atkinson and Hancock 2006.
    """
    cos = np.clip(cosine, 0, 1)
    sine2 = 1 - cos * cos
    squared = np.square(ior)
    top = np.square(ior - 1 / ior) * sine2
    below = 2 + 2 * squared - np.square(ior + 1 / ior) * sine2
    below = below + 4 * cos * np.sqrt(np.maximum(squared - sine2, 0))
    return (top / np.maximum(below, 1e-9)).astype(np.float32)


def pane_reflection(reflected: Floats) -> Floats:
    """Reflection of a thin pane, both faces and all bounces between, from that of one face."""
    return 2 * reflected / (1 + reflected)


def mirrored(directions: Floats, normals: Floats) -> Floats:
    """Directions after reflection at unit normals."""
    along = dot(directions, normals)[:, None]
    return (directions - 2 * along * normals).astype(np.float32)
