"""Patterns of streets: road paint, puddles, paving, walls, windows, signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.rays.vectors import Floats, Indices, Mask
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Pattern, street_id
from training.world.surfaces.noise import hashed, inside, noise, smooth_noise, stripes
from training.world.surfaces.room_patterns import ROOM_PAINTERS
from training.world.surfaces.street_plan import StreetPlan
from training.world.surfaces.surface import Painter, Surface, wall_coordinates

ROAD_LINE = street_id("road line")
WATER = street_id("water")
GLASS = street_id("glass")

PAINT_WHITE = np.array([0.66, 0.66, 0.63], np.float32)
SOIL = np.array([0.16, 0.11, 0.065], np.float32)
WINDOW_WHITE = np.array([0.62, 0.60, 0.56], np.float32)
WARM_LIGHT = np.array([0.34, 0.24, 0.12], np.float32)
COOL_LIGHT = np.array([0.22, 0.26, 0.30], np.float32)


def street_painters(
    plan: StreetPlan, climate: Climate, shop_signs: bool = False
) -> dict[Pattern, Painter]:
    """Painters of a street's patterns, which follow its plan and its weather.

    Args:
        plan: what paint on the road follows.
        climate: what is wet, warm or lit.
        shop_signs: shops have a coloured band above their window.
    """
    painter = _StreetPainter(plan, climate, shop_signs)
    return {
        **ROOM_PAINTERS,
        Pattern.ROAD: painter.road,
        Pattern.PAVING: painter.paving,
        Pattern.GRASS: painter.grass,
        Pattern.FACADE: painter.facade,
        Pattern.TILES: _tiles,
        Pattern.BARK: _bark,
        Pattern.BRICK: _brick,
        Pattern.SIGN: _sign,
    }


@dataclass(frozen=True)
class _FacadeGrid:
    """The openings of house fronts at N hits: places within them, and which they are.

    Attributes:
        x: metres from an opening's left edge.
        y: metres from its lower edge.
        wide: width of the opening.
        high: its height.
        cover: share of the pixel that lies in it.
        shop: shop windows.
        door: doors.
        column: number of the opening along the front.
        row: its storey.
        key: integer that varies the house.
    """

    x: Floats
    y: Floats
    wide: Floats
    high: Floats
    cover: Floats
    shop: Mask
    door: Mask
    column: Indices
    row: Indices
    key: Indices

    def of(self, rows: Indices) -> _FacadeGrid:
        """Some of the hits."""
        return _FacadeGrid(**{name: values[rows] for name, values in vars(self).items()})

    @property
    def chance(self) -> Floats:
        """A random number of each opening."""
        return hashed(self.column, self.row, self.key, 1)


class _StreetPainter:
    """Patterns that depend on the ground plan or the weather."""

    def __init__(self, plan: StreetPlan, climate: Climate, shop_signs: bool) -> None:
        self.plan, self.climate, self.shop_signs = plan, climate, shop_signs

    def road(self, surface: Surface, rows: Indices) -> None:
        """Asphalt with tracks, repairs, cracks and paint."""
        plan, climate = self.plan, self.climate
        x, y = surface.local[rows, 0], surface.local[rows, 1]
        footprint = surface.footprint[rows]
        rough = noise(x, y, 0.02, footprint, 0.6)
        coarse = smooth_noise(x, y, 0.9)
        shade = 1 + 0.22 * rough + 0.18 * coarse
        tracks = np.exp(-(((np.abs(np.abs(y) - plan.lane_width / 2) - 0.75) / 0.3) ** 2))
        shade = shade * (1 - 0.10 * tracks)
        patch = hashed(
            np.floor(x / 5.0).astype(np.int64), np.floor((y + 20) / 2.1).astype(np.int64), plan.key
        )
        shade = np.where((patch > 0.9) & (np.mod(x, 5.0) < 3.2), shade * 0.66, shade)
        crack = np.abs(smooth_noise(x + 3, y, 1.9)) < 0.012 + footprint * 0.05
        shade = np.where(crack, shade * 0.72, shade)
        surface.albedo[rows] *= shade[:, None]
        surface.kelvin[rows] += climate.ground_kelvin + 0.35 * coarse + 0.2 * rough + 0.5 * tracks

        paint_cover = _markings(x, y, footprint, plan) * np.clip(0.93 + 0.5 * rough, 0.4, 1)
        surface.mix(rows, PAINT_WHITE, paint_cover)
        surface.kelvin[rows] -= 0.9 * paint_cover
        surface.emissivity[rows] -= 0.035 * paint_cover
        surface.label[rows] = np.where(paint_cover > 0.4, ROAD_LINE, surface.label[rows])
        if climate.wetness > 0:
            self._wet(surface, rows)

    def _wet(self, surface: Surface, rows: Indices) -> None:
        """Damp asphalt and puddles."""
        plan, climate = self.plan, self.climate
        x, y = surface.local[rows, 0], surface.local[rows, 1]
        ragged = smooth_noise(x, y, 0.55)
        damp_noise = smooth_noise(x + 31, y + 7, 2.6) * 1.6
        damp = np.clip((damp_noise + climate.wetness - 0.75) * 4, 0, 1)
        pool = np.zeros(len(rows), bool)
        for cx, cy, rx, ry in plan.puddles:
            near = np.flatnonzero(np.abs(x - cx) < 1.6 * rx)
            reach = ((x[near] - cx) / rx) ** 2 + ((y[near] - cy) / ry) ** 2 + 0.9 * ragged[near]
            pool[near] |= reach < 1
            damp[near] = np.maximum(damp[near], np.clip((1.6 - reach) * 1.5, 0, 1))
        surface.albedo[rows] *= (1 - 0.45 * damp)[:, None]
        surface.kelvin[rows] -= 0.8 * damp
        spots = rows[pool]
        surface.albedo[spots] *= np.float32(0.55)
        surface.label[spots] = WATER
        surface.ior[spots] = 1.33
        surface.normal[spots] = (0, 0, 1)
        surface.kelvin[spots] = climate.air_kelvin + 0.4
        surface.emissivity[spots] = 0.985

    def paving(self, surface: Surface, rows: Indices) -> None:
        """Slabs of a sidewalk."""
        climate = self.climate
        x, y = surface.local[rows, 0], surface.local[rows, 1]
        footprint = surface.footprint[rows]
        row = np.floor(y / 0.5).astype(np.int64)
        shifted = x + 0.25 * (row & 1)
        tone = hashed(np.floor(shifted / 0.5).astype(np.int64), row, 5) - 0.5
        fade = np.clip(1.4 - footprint / 0.4, 0, 1)
        joint = np.maximum(
            stripes(shifted, 0.5, 0.03, footprint), stripes(y, 0.5, 0.03, footprint)
        )
        stain = smooth_noise(x, y, 0.7)
        shade = (
            1 + 0.14 * tone * fade + 0.1 * stain + 0.1 * noise(x, y, 0.02, footprint, 0.6)
        ) * (1 - 0.35 * joint)
        surface.albedo[rows] *= shade[:, None].astype(np.float32)
        surface.kelvin[rows] += 0.55 * climate.ground_kelvin + 0.25 * stain + 0.2 * tone * fade

    def grass(self, surface: Surface, rows: Indices) -> None:
        """Lawn with bare soil."""
        climate = self.climate
        x, y = surface.local[rows, 0], surface.local[rows, 1]
        footprint = surface.footprint[rows]
        blade = noise(x, y * 0.6, 0.03, footprint, 0.35)
        clump = smooth_noise(x, y, 0.45)
        bald = smooth_noise(x + 11, y + 5, 1.7)
        surface.albedo[rows] *= (1 + 0.6 * blade + 0.3 * clump)[:, None]
        soil = np.clip(bald * 3 - 0.9, 0, 0.8)
        surface.mix(rows, SOIL, soil.astype(np.float32))
        surface.kelvin[rows] += (
            0.4 * blade + 0.5 * clump + 0.8 * soil - (1.6 if climate.lamps_on else 0.0)
        )

    def facade(self, surface: Surface, rows: Indices) -> None:
        """A house front: its wall, and windows, doors and shops in a grid."""
        start, base, storey, bay, wide, high, style, key = surface.params[rows].T
        _wall_detail(surface, rows, style)
        u, z = wall_coordinates(surface, rows)
        u, z = u - start, z - base
        footprint = surface.footprint[rows]
        column, row = np.floor(u / bay).astype(np.int64), np.floor(z / storey).astype(np.int64)
        upright = np.abs(surface.normal[rows, 2]) < 0.5
        shop = (row == 0) & (key % 3 < 1)
        ground = row == 0
        seed = key.astype(np.int64)
        door = ground & ~shop & (hashed(column, seed, 3) > 0.72)
        panes_wide = np.where(shop, bay * 0.86, np.where(door, 1.0, wide))
        sill = np.where(shop, 0.45, np.where(door, 0.05, (storey - high) * 0.55))
        panes_high = np.where(shop, storey * 0.72, np.where(door, 2.1, high))
        x = u - column * bay - (bay - panes_wide) / 2
        y = z - row * storey - sill
        opening = (
            inside(x, 0, panes_wide, footprint) * inside(y, 0, panes_high, footprint) * upright
        )
        ledge = (
            inside(x, -0.12, panes_wide + 0.12, footprint)
            * inside(y, -0.14, 0, footprint)
            * upright
            * ~door
        )
        lintel = inside(x, -0.08, panes_wide + 0.08, footprint) * inside(
            y, panes_high, panes_high + 0.12, footprint
        )
        trim = np.maximum(ledge, 0.6 * lintel * upright)
        surface.mix(rows, WINDOW_WHITE * np.float32(0.8), trim)
        surface.kelvin[rows] += 0.8 * trim * (~ground)
        if self.shop_signs:
            band = inside(y, panes_high + 0.1, panes_high + 0.6, footprint) * shop * upright
            tone = np.stack([hashed(column // 2, seed, 20 + k) for k in range(3)], axis=1)
            surface.mix(rows, (0.5 * tone * tone + 0.02).astype(np.float32), band)
        grid = _FacadeGrid(x, y, panes_wide, panes_high, opening, shop, door, column, row, seed)
        within = np.flatnonzero(opening)
        self._openings(surface, rows[within], grid.of(within))

    def _openings(self, surface: Surface, rows: Indices, grid: _FacadeGrid) -> None:
        """Frames, panes, curtains and rooms behind them, lit in the dark."""
        x, y, shop, door = grid.x, grid.y, grid.shop, grid.door
        footprint = surface.footprint[rows]
        bar = np.where(shop, 0.06, 0.09)
        glazed = inside(x, bar, grid.wide - bar, footprint) * inside(
            y, bar, grid.high - bar, footprint
        )
        middle = np.where(shop, grid.wide / 3, grid.wide / 2)
        mullion = inside(np.mod(x, middle), -1, bar / 2, footprint) * (x > bar)
        glazed = glazed * (1 - np.clip(mullion, 0, 1) * 0.9) * (~door)
        chance = grid.chance
        frame = np.where(
            door[:, None], [[0.12, 0.07, 0.05]], WINDOW_WHITE * (0.35 + 0.65 * chance[:, None])
        )
        surface.mix(rows, frame.astype(np.float32), grid.cover)
        curtain = hashed(grid.column, grid.row, grid.key, 2)
        drawn = (
            (np.minimum(x, grid.wide - x) < 0.3 * curtain * grid.wide) & (curtain > 0.35) & ~shop
        )
        room = np.where(drawn[:, None], [[0.34, 0.32, 0.28]], 0.03 + 0.05 * chance[:, None])
        cover = grid.cover * glazed
        surface.mix(rows, room.astype(np.float32), cover)
        pane = cover > 0.5
        surface.ior[rows] = np.where(pane, 1.5, surface.ior[rows])
        surface.label[rows] = np.where((grid.cover > 0.5) & shop, GLASS, surface.label[rows])
        surface.emissivity[rows] = np.where(pane, 0.86, surface.emissivity[rows])
        surface.kelvin[rows] += np.where(pane, np.where(shop, 0.5, -0.6), 0) + 0.9 * (
            cover * (chance > 0.7)
        )
        if self.climate.lamps_on:
            lit = np.where(shop, chance > 0.25, chance > 0.66)
            tone = np.where(
                (hashed(grid.column, grid.row, grid.key, 4) > 0.75)[:, None],
                COOL_LIGHT,
                WARM_LIGHT,
            )
            depth = 0.45 + 0.55 * np.clip(y / grid.high, 0, 1)
            goods = np.where(shop, _goods(grid), 1.0)
            power = lit * cover * depth * goods * (0.35 + 0.8 * chance) * np.where(drawn, 0.5, 1.0)
            surface.emission[rows] += (tone * power[:, None]).astype(np.float32)


def _markings(x: Floats, y: Floats, footprint: Floats, plan: StreetPlan) -> Floats:
    wide = plan.line_width
    along = np.minimum(footprint * 2.0, 2.0)
    is_lined = plan.beyond_crossings(x)
    dash = stripes(x + plan.dash_phase, 6.0, 3.0, along) if plan.dashed else np.float32(1)
    dash = dash * np.float32(plan.has_centre_line)
    centre = inside(y, -wide / 2, wide / 2, footprint) * dash * is_lined
    edge = inside(np.abs(y), plan.edge_line - wide, plan.edge_line, footprint) * is_lined
    cover = np.maximum(centre, edge if plan.has_edge_lines else 0)
    for start in plan.zebras:
        near = np.flatnonzero((x > start - 2.7) & (x < start + 4.3))  # `along` is at most 2 m
        u, v, across, ahead = x[near], y[near], footprint[near], along[near]
        bars = stripes(v + 20, 1.0, 0.5, across) * inside(u, start, start + 3.2, ahead)
        cover[near] = np.maximum(cover[near], bars * (np.abs(v) < plan.road_half - 0.3))
        stop = inside(u, start - 1.6, start - 1.15, ahead)
        stop = stop * inside(v, -plan.road_half, -wide, across)
        cover[near] = np.maximum(cover[near], stop)
    for stroke in plan.strokes:
        left, right = sorted((stroke[0], stroke[2]))
        near = np.flatnonzero((x > left - 1) & (x < right + 1) & (is_lined > 0))
        covered = _stroke(x[near], y[near], footprint[near], stroke)
        cover[near] = np.maximum(cover[near], covered)
    return np.asarray(cover, np.float32)


def _stroke(
    x: Floats, y: Floats, footprint: Floats, stroke: tuple[float, float, float, float, float]
) -> Floats:
    """Coverage by a straight stroke of paint."""
    x0, y0, x1, y1, wide = stroke
    length = float(np.hypot(x1 - x0, y1 - y0))
    u, v = (x1 - x0) / length, (y1 - y0) / length
    along, across = (x - x0) * u + (y - y0) * v, (y - y0) * u - (x - x0) * v
    ends = inside(along, 0, length, footprint * 2)
    return ends * inside(across, -wide / 2, wide / 2, footprint)


def _bark(surface: Surface, rows: Indices) -> None:
    x, y, z = surface.local[rows].T
    grain = noise((x + y) * 2, z * 0.3, 0.03, surface.footprint[rows], 0.6)
    surface.albedo[rows] *= (1 + 0.5 * grain)[:, None]


def _brick(surface: Surface, rows: Indices) -> None:
    _wall_detail(surface, rows, np.ones(len(rows)))


def _bricks(u: Floats, z: Floats, footprint: Floats) -> Floats:
    """Shade of bricks and the mortar between them."""
    row = np.floor(z / 0.1).astype(np.int64)
    shifted = u + 0.15 * (row & 1)
    tone = hashed(np.floor(shifted / 0.3).astype(np.int64), row, 9) - 0.5
    fade = np.clip(1.5 - footprint / 0.09, 0, 1)
    mortar = np.maximum(stripes(shifted, 0.3, 0.03, footprint), stripes(z, 0.1, 0.025, footprint))
    return (1 + 0.4 * tone * fade) * (1 + 0.35 * (mortar - 0.3) * fade)


def _wall_detail(surface: Surface, rows: Indices, style: Floats) -> None:
    """Bricks (style 1), plaster (0) or concrete panels (2)."""
    u, z = wall_coordinates(surface, rows)
    footprint = surface.footprint[rows]
    dirt = smooth_noise(u, z, 0.8)
    grain = noise(u, z, 0.03, footprint, 0.8)
    shade = np.ones(len(rows), np.float32)
    brick, panel = np.flatnonzero(style == 1), np.flatnonzero(style == 2)
    shade[brick] = _bricks(u[brick], z[brick], footprint[brick])
    shade[panel] = 1 - 0.35 * np.maximum(
        stripes(u[panel], 2.4, 0.04, footprint[panel]),
        stripes(z[panel], 1.45, 0.04, footprint[panel]),
    )
    streak = 1 - 0.25 * np.clip(smooth_noise(u * 3, z * 0.2, 0.5) - 0.2, 0, 1)
    surface.albedo[rows] *= (shade * streak * (1 + 0.09 * dirt + 0.09 * grain))[:, None].astype(
        np.float32
    )
    surface.kelvin[rows] += 0.35 * dirt + 0.15 * grain


def _goods(grid: _FacadeGrid) -> Floats:
    """Brightness of what stands in a shop window: things on shelves before the light."""
    shelf, place = (
        np.floor(grid.y / 0.55).astype(np.int64),
        np.floor(grid.x / 0.38).astype(np.int64),
    )
    tall = 0.2 + 0.3 * hashed(shelf, place, grid.column, grid.key, 7)
    thing = (grid.y - shelf * 0.55 < tall) & (shelf < 3)
    return np.where(thing, 0.15 + 0.7 * hashed(place, shelf, grid.key, 8), 1.0).astype(np.float32)


def _tiles(surface: Surface, rows: Indices) -> None:
    x, y, z = surface.local[rows].T
    footprint = surface.footprint[rows]
    joint = np.maximum(stripes(x + y, 0.33, 0.04, footprint), stripes(z, 0.24, 0.03, footprint))
    surface.albedo[rows] *= (1 - 0.3 * joint + 0.15 * noise(x + y, z, 0.05, footprint, 0.7))[
        :, None
    ]


def _sign(surface: Surface, rows: Indices) -> None:
    """A plate that faces along x: params are centre x, y, z, radius, kind."""
    centre, radius, kind = (
        surface.params[rows, 1:3],
        surface.params[rows, 3],
        surface.params[rows, 4],
    )
    u = (surface.position[rows, 1] - centre[:, 0]) / radius
    v = (surface.position[rows, 2] - centre[:, 1]) / radius
    radial = np.hypot(u, v)
    red, white = np.array([0.55, 0.02, 0.02]), np.array([0.75, 0.75, 0.75])
    blue, black = np.array([0.02, 0.08, 0.42]), np.array([0.03, 0.03, 0.03])
    glyph = ((np.abs(u) < 0.12) | (np.abs(v) < 0.12)) & (radial < 0.5)
    ring = np.where((radial > 0.7)[:, None], red, np.where(glyph[:, None], black, white))
    stop = np.where((np.abs(v) < 0.2)[:, None] & (np.abs(u) < 0.62)[:, None], white, red)
    guide = np.where(((np.abs(v) < 0.16) & (u > -0.6) & (u < 0.5) | glyph)[:, None], white, blue)
    face = np.where((kind == 0)[:, None], ring, np.where((kind == 1)[:, None], stop, guide))
    front = (surface.normal[rows, 0] < -0.5)[:, None]
    surface.albedo[rows] = np.where(front, face, [[0.25, 0.25, 0.26]]).astype(np.float32)
