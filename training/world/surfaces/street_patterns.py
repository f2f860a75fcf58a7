"""How the surfaces of a street vary from place to place: lines, bricks, windows, puddles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.rays.raytrace import unit
from training.world.scenes.climate import Climate
from training.world.scenes.plan import StreetPlan
from training.world.shapes.materials import Pattern, street_id
from training.world.surfaces.noise import hashed, inside, noise, smooth_noise, stripes
from training.world.surfaces.room_patterns import ROOM_PAINTERS
from training.world.surfaces.surface import Painter, Surface

Floats = NDArray[np.floating[Any]]

ROAD = street_id("road")
ROAD_LINE = street_id("road line")
BUILDING = street_id("building")
WATER = street_id("water")
GLASS = street_id("glass")

WINDOW_WHITE = np.array([0.62, 0.60, 0.56], np.float32)
WARM_LIGHT = np.array([0.34, 0.24, 0.12], np.float32)
COOL_LIGHT = np.array([0.22, 0.26, 0.30], np.float32)


def paint(surface: Surface, pattern: NDArray[np.int8]) -> None:
    """Applies each hit's pattern."""
    for kind in np.unique(pattern):
        painter = _PAINTERS.get(Pattern(int(kind)))
        if painter is not None:
            painter(surface, np.flatnonzero(pattern == kind))


def _mix(surface: Surface, at: NDArray[np.int64], colour: Floats, share: Floats) -> None:
    old = surface.albedo[at]
    surface.albedo[at] = old + (colour - old) * share[:, None]


def _road(surface: Surface, at: NDArray[np.int64]) -> None:
    plan, climate = surface.plan, surface.climate
    x, y = surface.local[at, 0], surface.local[at, 1]
    size = surface.footprint[at]
    rough = noise(x, y, 0.02, size, 0.6)
    coarse = smooth_noise(x, y, 0.9)
    shade = 1 + 0.22 * rough + 0.18 * coarse
    tracks = np.exp(-(((np.abs(np.abs(y) - plan.lane_width / 2) - 0.75) / 0.3) ** 2))
    shade = shade * (1 - 0.10 * tracks)
    patch = hashed(
        np.floor(x / 5.0).astype(np.int64), np.floor((y + 20) / 2.1).astype(np.int64), plan.key
    )
    shade = np.where((patch > 0.9) & (np.mod(x, 5.0) < 3.2), shade * 0.66, shade)
    crack = np.abs(smooth_noise(x + 3, y, 1.9)) < 0.012 + size * 0.05
    shade = np.where(crack, shade * 0.72, shade)
    surface.albedo[at] *= shade[:, None]
    surface.kelvin[at] += climate.ground_kelvin + 0.35 * coarse + 0.2 * rough + 0.5 * tracks

    paint_cover = _markings(x, y, size, plan) * np.clip(0.93 + 0.5 * rough, 0.4, 1)
    _mix(surface, at, np.array([0.66, 0.66, 0.63], np.float32), paint_cover)
    surface.kelvin[at] -= 0.9 * paint_cover
    surface.emissivity[at] -= 0.035 * paint_cover
    surface.label[at] = np.where(paint_cover > 0.4, ROAD_LINE, surface.label[at])
    if climate.wetness > 0:
        _wet(surface, at)


def _markings(x: Floats, y: Floats, size: Floats, plan: StreetPlan) -> Floats:
    wide = plan.line_width
    along = np.minimum(size * 2.0, 2.0)
    near = plan.beyond_crossings(x)
    dash = stripes(x + plan.dash_phase, 6.0, 3.0, along) if plan.dashed else np.float32(1)
    centre = inside(y, -wide / 2, wide / 2, size) * dash * near
    edge = inside(np.abs(y), plan.edge_line - wide, plan.edge_line, size) * near
    cover = np.maximum(centre, edge if plan.has_edge_lines else 0)
    for start in plan.zebras:
        bars = stripes(y + 20, 1.0, 0.5, size) * inside(x, start, start + 3.2, along)
        cover = np.maximum(cover, bars * (np.abs(y) < plan.road_half - 0.3))
        stop = inside(x, start - 1.6, start - 1.15, along) * inside(
            y, -plan.road_half, -wide, size
        )
        cover = np.maximum(cover, stop)
    return np.asarray(cover, np.float32)


def _wet(surface: Surface, at: NDArray[np.int64]) -> None:
    plan, climate = surface.plan, surface.climate
    x, y = surface.local[at, 0], surface.local[at, 1]
    ragged = smooth_noise(x, y, 0.55)
    damp_noise = smooth_noise(x + 31, y + 7, 2.6) * 1.6
    damp = np.clip((damp_noise + climate.wetness - 0.75) * 4, 0, 1)
    pool = np.zeros(len(at), bool)
    for cx, cy, rx, ry in plan.puddles:
        reach = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 0.9 * ragged
        pool |= reach < 1
        damp = np.maximum(damp, np.clip((1.6 - reach) * 1.5, 0, 1))
    surface.albedo[at] *= (1 - 0.45 * damp)[:, None]
    surface.kelvin[at] -= 0.8 * damp
    spots = at[pool]
    surface.albedo[spots] *= np.float32(0.55)
    surface.label[spots] = WATER
    surface.index[spots] = 1.33
    surface.normal[spots] = (0, 0, 1)
    surface.kelvin[spots] = climate.air_kelvin + 0.4
    surface.emissivity[spots] = 0.985


def _paving(surface: Surface, at: NDArray[np.int64]) -> None:
    climate = surface.climate
    x, y = surface.local[at, 0], surface.local[at, 1]
    size = surface.footprint[at]
    row = np.floor(y / 0.5).astype(np.int64)
    shifted = x + 0.25 * (row & 1)
    tone = hashed(np.floor(shifted / 0.5).astype(np.int64), row, 5) - 0.5
    fade = np.clip(1.4 - size / 0.4, 0, 1)
    joint = np.maximum(stripes(shifted, 0.5, 0.03, size), stripes(y, 0.5, 0.03, size))
    stain = smooth_noise(x, y, 0.7)
    shade = (1 + 0.14 * tone * fade + 0.1 * stain + 0.1 * noise(x, y, 0.02, size, 0.6)) * (
        1 - 0.35 * joint
    )
    surface.albedo[at] *= shade[:, None].astype(np.float32)
    surface.kelvin[at] += 0.55 * climate.ground_kelvin + 0.25 * stain + 0.2 * tone * fade


def _grass(surface: Surface, at: NDArray[np.int64]) -> None:
    climate = surface.climate
    x, y = surface.local[at, 0], surface.local[at, 1]
    size = surface.footprint[at]
    blade = noise(x, y * 0.6, 0.03, size, 0.35)
    clump = smooth_noise(x, y, 0.45)
    bald = smooth_noise(x + 11, y + 5, 1.7)
    surface.albedo[at] *= (1 + 0.6 * blade + 0.3 * clump)[:, None]
    soil = np.clip(bald * 3 - 0.9, 0, 0.8)
    _mix(surface, at, np.array([0.16, 0.11, 0.065], np.float32), soil.astype(np.float32))
    surface.kelvin[at] += (
        0.4 * blade + 0.5 * clump + 0.8 * soil - (1.6 if climate.lamps_on else 0.0)
    )


def _leaves(surface: Surface, at: NDArray[np.int64]) -> None:
    x, y, z = surface.local[at].T
    size = surface.footprint[at]
    blade = noise(x + y, z + 0.6 * y, 0.035, size, 0.3)
    clump = smooth_noise(x + 0.7 * y, z - 0.5 * y, 0.4)
    # Leaves let light through: undersides are not as dark as those of a solid.
    surface.normal[at] = unit(surface.normal[at] + np.array([0, 0, 0.55], np.float32))
    surface.albedo[at] *= np.clip(1 + 0.75 * blade + 0.45 * clump, 0.15, 2)[:, None]
    surface.kelvin[at] += 0.3 * blade + 0.3 * clump


def _bark(surface: Surface, at: NDArray[np.int64]) -> None:
    x, y, z = surface.local[at].T
    grain = noise((x + y) * 2, z * 0.3, 0.03, surface.footprint[at], 0.6)
    surface.albedo[at] *= (1 + 0.5 * grain)[:, None]


def _brick(surface: Surface, at: NDArray[np.int64]) -> None:
    _wall_detail(surface, at, np.ones(len(at)))


def _wall_coordinates(surface: Surface, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    along_x = np.abs(surface.normal[at, 1]) > np.abs(surface.normal[at, 0])
    u = np.where(along_x, surface.local[at, 0], surface.local[at, 1])
    return u.astype(np.float32), surface.local[at, 2]


def _wall_detail(surface: Surface, at: NDArray[np.int64], style: Floats) -> None:
    """Bricks (style 1), plaster (0) or concrete panels (2)."""
    u, z = _wall_coordinates(surface, at)
    size = surface.footprint[at]
    dirt = smooth_noise(u, z, 0.8)
    grain = noise(u, z, 0.03, size, 0.8)
    row = np.floor(z / 0.1).astype(np.int64)
    shifted = u + 0.15 * (row & 1)
    tone = hashed(np.floor(shifted / 0.3).astype(np.int64), row, 9) - 0.5
    fade = np.clip(1.5 - size / 0.09, 0, 1)
    mortar = np.maximum(stripes(shifted, 0.3, 0.03, size), stripes(z, 0.1, 0.025, size))
    brick = (1 + 0.4 * tone * fade) * (1 + 0.35 * (mortar - 0.3) * fade)
    panel = 1 - 0.35 * np.maximum(stripes(u, 2.4, 0.04, size), stripes(z, 1.45, 0.04, size))
    shade = np.where(style == 1, brick, np.where(style == 2, panel, 1.0))
    streak = 1 - 0.25 * np.clip(smooth_noise(u * 3, z * 0.2, 0.5) - 0.2, 0, 1)
    surface.albedo[at] *= (shade * streak * (1 + 0.09 * dirt + 0.09 * grain))[:, None].astype(
        np.float32
    )
    surface.kelvin[at] += 0.35 * dirt + 0.15 * grain


def _facade(surface: Surface, at: NDArray[np.int64]) -> None:
    climate = surface.climate
    start, base, storey, bay, wide, high, style, key = surface.params[at].T
    _wall_detail(surface, at, style)
    u, z = _wall_coordinates(surface, at)
    u, z = u - start, z - base
    size = surface.footprint[at]
    column, row = np.floor(u / bay).astype(np.int64), np.floor(z / storey).astype(np.int64)
    upright = np.abs(surface.normal[at, 2]) < 0.5
    shop = (row == 0) & (key % 3 < 1)
    ground = row == 0
    seed = key.astype(np.int64)
    door = ground & ~shop & (hashed(column, seed, 3) > 0.72)
    panes_wide = np.where(shop, bay * 0.86, np.where(door, 1.0, wide))
    sill = np.where(shop, 0.45, np.where(door, 0.05, (storey - high) * 0.55))
    panes_high = np.where(shop, storey * 0.72, np.where(door, 2.1, high))
    x = u - column * bay - (bay - panes_wide) / 2
    y = z - row * storey - sill
    opening = inside(x, 0, panes_wide, size) * inside(y, 0, panes_high, size) * upright
    ledge = inside(x, -0.12, panes_wide + 0.12, size) * inside(y, -0.14, 0, size) * upright * ~door
    lintel = inside(x, -0.08, panes_wide + 0.08, size) * inside(
        y, panes_high, panes_high + 0.12, size
    )
    trim = np.maximum(ledge, 0.6 * lintel * upright)
    _mix(surface, at, WINDOW_WHITE * np.float32(0.8), trim)
    surface.kelvin[at] += 0.8 * trim * (~ground)
    _openings(
        surface,
        at,
        climate,
        (x, y, panes_wide, panes_high, opening, shop, door, column, row, seed),
    )


def _openings(
    surface: Surface, at: NDArray[np.int64], climate: Climate, grid: tuple[Any, ...]
) -> None:
    x, y, wide, high, opening, shop, door, column, row, seed = grid
    size = surface.footprint[at]
    bar = np.where(shop, 0.06, 0.09)
    glazed = inside(x, bar, wide - bar, size) * inside(y, bar, high - bar, size)
    middle = np.where(shop, wide / 3, wide / 2)
    mullion = inside(np.mod(x, middle), -1, bar / 2, size) * (x > bar)
    glazed = glazed * (1 - np.clip(mullion, 0, 1) * 0.9) * (~door)
    chance = hashed(column, row, seed, 1)
    frame = np.where(
        door[:, None], [[0.12, 0.07, 0.05]], WINDOW_WHITE * (0.35 + 0.65 * chance[:, None])
    )
    _mix(surface, at, frame.astype(np.float32), opening)
    curtain = hashed(column, row, seed, 2)
    drawn = (np.minimum(x, wide - x) < 0.3 * curtain * wide) & (curtain > 0.35) & ~shop
    room = np.where(drawn[:, None], [[0.34, 0.32, 0.28]], 0.03 + 0.05 * chance[:, None])
    cover = opening * glazed
    _mix(surface, at, room.astype(np.float32), cover)
    pane = cover > 0.5
    surface.index[at] = np.where(pane, 1.5, surface.index[at])
    surface.label[at] = np.where((opening > 0.5) & shop, GLASS, surface.label[at])
    surface.emissivity[at] = np.where(pane, 0.86, surface.emissivity[at])
    surface.kelvin[at] += np.where(pane, np.where(shop, 0.5, -0.6), 0) + 0.9 * (
        cover * (chance > 0.7)
    )
    if climate.lamps_on:
        lit = np.where(shop, chance > 0.25, chance > 0.66)
        tone = np.where((hashed(column, row, seed, 4) > 0.75)[:, None], COOL_LIGHT, WARM_LIGHT)
        depth = 0.45 + 0.55 * np.clip(y / high, 0, 1)
        goods = np.where(shop, _goods(x, y, column, seed), 1.0)
        power = lit * cover * depth * goods * (0.35 + 0.8 * chance) * np.where(drawn, 0.5, 1.0)
        surface.emission[at] += (tone * power[:, None]).astype(np.float32)


def _goods(x: Floats, y: Floats, column: NDArray[np.int64], seed: NDArray[np.int64]) -> Floats:
    """Brightness of what stands in a shop window: things on shelves before the light."""
    shelf, place = np.floor(y / 0.55).astype(np.int64), np.floor(x / 0.38).astype(np.int64)
    tall = 0.2 + 0.3 * hashed(shelf, place, column, seed, 7)
    thing = (y - shelf * 0.55 < tall) & (shelf < 3)
    return np.where(thing, 0.15 + 0.7 * hashed(place, shelf, seed, 8), 1.0).astype(np.float32)


def _tiles(surface: Surface, at: NDArray[np.int64]) -> None:
    x, y, z = surface.local[at].T
    size = surface.footprint[at]
    grid = np.maximum(stripes(x + y, 0.33, 0.04, size), stripes(z, 0.24, 0.03, size))
    surface.albedo[at] *= (1 - 0.3 * grid + 0.15 * noise(x + y, z, 0.05, size, 0.7))[:, None]


def _sign(surface: Surface, at: NDArray[np.int64]) -> None:
    """A plate that faces along x: params are centre x, y, z, radius, kind."""
    centre, radius, kind = surface.params[at, 1:3], surface.params[at, 3], surface.params[at, 4]
    u = (surface.position[at, 1] - centre[:, 0]) / radius
    v = (surface.position[at, 2] - centre[:, 1]) / radius
    away = np.hypot(u, v)
    red, white = np.array([0.55, 0.02, 0.02]), np.array([0.75, 0.75, 0.75])
    blue, black = np.array([0.02, 0.08, 0.42]), np.array([0.03, 0.03, 0.03])
    glyph = ((np.abs(u) < 0.12) | (np.abs(v) < 0.12)) & (away < 0.5)
    ring = np.where((away > 0.7)[:, None], red, np.where(glyph[:, None], black, white))
    stop = np.where((np.abs(v) < 0.2)[:, None] & (np.abs(u) < 0.62)[:, None], white, red)
    guide = np.where(((np.abs(v) < 0.16) & (u > -0.6) & (u < 0.5) | glyph)[:, None], white, blue)
    face = np.where((kind == 0)[:, None], ring, np.where((kind == 1)[:, None], stop, guide))
    front = (surface.normal[at, 0] < -0.5)[:, None]
    surface.albedo[at] = np.where(front, face, [[0.25, 0.25, 0.26]]).astype(np.float32)


_PAINTERS: dict[Pattern, Painter] = {
    Pattern.ROAD: _road,
    Pattern.PAVING: _paving,
    Pattern.GRASS: _grass,
    Pattern.FACADE: _facade,
    Pattern.TILES: _tiles,
    Pattern.LEAVES: _leaves,
    Pattern.BARK: _bark,
    Pattern.BRICK: _brick,
    Pattern.SIGN: _sign,
    **ROOM_PAINTERS,
}
