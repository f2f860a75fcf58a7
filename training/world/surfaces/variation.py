"""Colours, textures and temperatures as widely as they vary between real streets."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from training.world.rays.vectors import Floats
from training.world.surfaces.materials import SKINS, Colour, Part, PartTable, Pattern, street_id
from training.world.surfaces.noise import noise
from training.world.surfaces.surface import Surface, face_coordinates

ANY_COLOUR_SHARE = 0.06
"""Share of the surfaces that have any colour at all."""
EXPONENTS = (0.2, 0.7, 1.3)
"""From fine grain to coarse patches."""
GLASS_ALBEDO = 0.019
"""Albedo that a car's windows stay below."""
KELVIN_SPREAD = {Pattern.FACADE: 2.0, Pattern.CLOTH: 2.5}
"""Standard deviation of temperatures by pattern; 1 K for others."""
ROAD_TINT = np.array([1.0, 0.3, -0.6])


def vary_parts(parts: PartTable, rng: np.random.Generator) -> None:
    """Draws colours, temperatures and emissivities of all parts anew, in place.

    Parts of one object that share a colour keep sharing one.
    """
    tints: dict[tuple[int, Colour], Colour] = {}
    shades = {label: rng.uniform(0.6, 1.5, 3) ** [0.4, 0.3, 0.6] for label in range(16)}
    for number, part in enumerate(parts.parts):
        key = (part.instance or -1 - number, part.colour)
        if key not in tints:
            tints[key] = _colour(part, shades.get(part.label, np.ones(3)), rng)
        spread = KELVIN_SPREAD.get(part.pattern, 1.0)
        parts.parts[number] = replace(
            part,
            colour=tints[key],
            kelvin=part.kelvin + float(rng.normal(0, spread)),
            sun_kelvin=part.sun_kelvin * float(rng.uniform(0.5, 1.8)),
            emissivity=float(np.clip(part.emissivity + rng.normal(0, 0.02), 0.1, 1)),
        )


def _colour(part: Part, shade: Floats, rng: np.random.Generator) -> Colour:
    if part.pattern is Pattern.SIGN or max(part.emission) > 0:
        return part.colour
    if rng.uniform() < ANY_COLOUR_SHARE:
        return any_colour(rng)
    if part.label == street_id("car") and part.ior > 1 and max(part.colour) > GLASS_ALBEDO:
        return _car_paint(rng)
    if part.pattern is Pattern.CLOTH and part.colour not in SKINS:
        return _cloth(rng)
    if part.pattern is Pattern.FACADE:
        return _wall(part, rng)
    if part.pattern is Pattern.ROAD:
        return _tuple(rng.uniform(0.03, 0.17) * (1 + rng.normal(0, 0.08) * ROAD_TINT))
    jitter = 2.0 ** rng.normal(0, 0.45) * rng.uniform(0.8, 1.25, 3)
    return _tuple(np.clip(np.array(part.colour) * jitter * shade, 0.008, 0.85))


def _car_paint(rng: np.random.Generator) -> Colour:
    """Black and dark grey 35 %, silver 25 %, white 20 %, colours 20 %."""
    kind = rng.choice(4, p=[0.35, 0.25, 0.2, 0.2])
    if kind < 3:
        low, high = ((0.008, 0.07), (0.12, 0.4), (0.5, 0.75))[kind]
        return _tuple(rng.uniform(low, high) * rng.uniform(0.93, 1.07, 3))
    value = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))
    return colorsys.hsv_to_rgb(rng.uniform(), float(rng.uniform(0.4, 0.95)), value)


def _cloth(rng: np.random.Generator) -> Colour:
    """Dark 60 %, grey or blue 25 %, any colour 15 %."""
    kind = rng.choice(3, p=[0.6, 0.25, 0.15])
    if kind == 0:
        return _tuple(np.exp(rng.uniform(np.log(0.008), np.log(0.09))) * rng.uniform(0.8, 1.2, 3))
    if kind == 1:
        return _tuple(rng.uniform(0.08, 0.45) * np.array([0.85, 0.95, 1.15]) ** rng.normal(1, 1))
    return any_colour(rng)


def any_colour(rng: np.random.Generator) -> Colour:
    """Any hue, seldom a pure one, as often dark as bright."""
    value = float(np.exp(rng.uniform(np.log(0.02), np.log(0.75))))
    return colorsys.hsv_to_rgb(rng.uniform(), float(rng.uniform(0, 0.95) ** 1.5), value)


def _wall(part: Part, rng: np.random.Generator) -> Colour:
    if rng.uniform() < 0.5:
        return _tuple(np.array(part.colour) * rng.uniform(0.5, 1.4))
    value, hue = float(rng.uniform(0.06, 0.7)), float(rng.normal(0.09, 0.06) % 1)
    return colorsys.hsv_to_rgb(hue, float(rng.uniform(0, 0.5)), value)


def _tuple(values: Floats) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def draw_textures(
    count: int, still: Collection[int], rng: np.random.Generator
) -> Callable[[Surface], None]:
    """A painter of random grain, patches and stains over everything that does not move.

    Args:
        count: of parts.
        still: ids of the parts that stand.
        rng: draws each part's texture.

    Returns:
        changes albedo and temperature of a surface whose own pattern is painted already.
    """
    amplitude = rng.uniform(0, 0.55, count) * (rng.uniform(size=count) < 0.8)
    is_still = np.zeros(count, bool)
    is_still[list(still)] = True
    amplitude = np.where(is_still, amplitude, 0).astype(np.float32)
    texel = np.exp(rng.uniform(np.log(0.004), np.log(0.12), count)).astype(np.float32)
    turn = rng.uniform(0, np.pi, count).astype(np.float32)
    stretch = (4 ** rng.uniform(-1, 1, count)).astype(np.float32)
    kind = rng.integers(len(EXPONENTS), size=count)
    tint = rng.normal(0, 0.25, (count, 3)).astype(np.float32)
    warmth = rng.uniform(0, 1.2, count).astype(np.float32)

    def apply(surface: Surface) -> None:
        part = surface.part
        for which, exponent in enumerate(EXPONENTS):
            rows = np.flatnonzero((amplitude[part] > 0) & (kind[part] == which))
            if not len(rows):
                continue
            own = part[rows]
            u, v = face_coordinates(surface, rows)
            cos, sin, far = np.cos(turn[own]), np.sin(turn[own]), stretch[own]
            value = noise(
                (u * cos + v * sin) * far, (v * cos - u * sin) / far,
                texel[own], surface.footprint[rows], exponent,
            )  # fmt: skip
            swing = (amplitude[own] * value)[:, None] * (1 + tint[own])
            surface.albedo[rows] *= np.clip(1 + swing, 0.15, 2.5)
            surface.kelvin[rows] += warmth[own] * value

    return apply
