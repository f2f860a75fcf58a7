"""People with a gait, and the mannequins that look like them but are cold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats, Indices
from training.world.shapes.geometry import Mesh, capsules, ellipsoids, join, tube, vector, yaw
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import SKINS, Part, PartTable, Pattern, street_id

CLOTHS = (
    (0.03, 0.03, 0.04), (0.04, 0.06, 0.15), (0.30, 0.04, 0.04), (0.42, 0.40, 0.36),
    (0.10, 0.14, 0.06), (0.55, 0.42, 0.07), (0.14, 0.14, 0.15), (0.10, 0.22, 0.36),
    (0.36, 0.16, 0.28), (0.22, 0.13, 0.07),
)  # fmt: skip
SKIN_KELVIN = 306.5


@dataclass(frozen=True)
class Figure:
    """One person's looks: part ids and proportions."""

    skin: int
    hair: int
    top: int
    legs: int
    shoes: int
    bag: int
    height: float
    build: float
    coat: float
    has_bag: bool
    long_sleeves: bool

    def pieces(self, phase: float, swing: float) -> Pieces:
        """The body facing along x, feet near z = 0; see `Crowd.pieces`."""
        return Crowd([self]).pieces(np.array([phase]), np.array([swing]))


_WIDE, _NARROW, _BALLS, _HANDS = "wide limbs", "narrow limbs", "balls", "hands"
_SLOTS = {_WIDE: 6, _NARROW: 8, _BALLS: 4, _HANDS: 2}
"""Solids of each kind that a body may have, in the order of `Crowd._solids`."""


class Crowd:
    """People whose bodies are posed together, which costs little more than one of them.

    Args:
        figures: their looks.
        seated: they ride bicycles; their legs pedal.
    """

    def __init__(self, figures: Sequence[Figure], seated: bool = False) -> None:
        self._figures, self._seated = figures, seated
        self._build = np.array([figure.build for figure in figures])
        scales = np.array([figure.height / 1.75 for figure in figures], np.float32)
        self._coats = [_coat(figure) for figure in figures if figure.coat > 0 and not self._seated]
        solids = self._solids(np.zeros(len(figures)), np.zeros(len(figures)))
        self._order, self._parts, ends = self._layout({k: len(m) for k, m in solids.items()})
        self._bodies = [slice(*pair) for pair in pairwise([0, *ends])]
        sizes = np.diff([0, *ends])
        self._scales = np.repeat(scales, sizes)[:, None, None]

    def pieces(
        self,
        phases: Floats,
        swings: Floats,
        places: Floats | None = None,
        headings: Sequence[float] = (),
    ) -> Pieces:
        """All bodies, each facing along x with its feet near z = 0 until it is placed.

        Args:
            phases: moment of the stride in rad, (N,).
            swings: 0 standing, 1 a brisk walk, (N,).
            places: metres, (N, 3); None leaves the bodies where they are.
            headings: about the vertical, rad, one per place.
        """
        mesh = join(list(self._solids(phases, swings).values()))
        corners = mesh.corners[self._order] * self._scales
        body = Mesh(corners, mesh.normals[self._order] / self._scales)
        if self._seated:
            body = body.moved((-0.22, 0, 0.05))
        if places is None:
            return [(body, self._parts)]
        for span, place, heading in zip(self._bodies, places, headings, strict=True):
            one = Mesh(body.corners[span], body.normals[span]).turned(yaw(heading)).moved(place)
            body.corners[span], body.normals[span] = one.corners, one.normals
        return [(body, self._parts)]

    def _layout(self, counts: dict[str, int]) -> tuple[Indices, NDArray[np.int32], list[int]]:
        """Triangles of the solids in the order of bodies, their parts, and where bodies end.

        Args:
            counts: triangles of each kind of solid, all bodies together.
        """
        order, parts, ends, total = [], [], [], 0
        first = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
        coat = first.get("coats", 0)
        size = {
            kind: counts[kind] // (number * len(self._figures)) for kind, number in _SLOTS.items()
        }
        for index, figure in enumerate(self._figures):
            for kind, slot, part in self._plan(figure):
                if kind == "coats":
                    start, count = coat, counts[kind] // len(self._coats)
                    coat += count
                else:
                    count = size[kind]
                    start = first[kind] + (index * _SLOTS[kind] + slot) * count
                order.append(np.arange(start, start + count))
                parts.append(np.full(count, part, np.int32))
                total += count
            ends.append(total)
        return np.concatenate(order), np.concatenate(parts), ends

    def _plan(self, figure: Figure) -> list[tuple[str, int, int]]:
        """Kind, slot and part of each solid of a body."""
        has_coat = figure.coat > 0 and not self._seated
        sleeve = figure.top if figure.long_sleeves else figure.skin
        plan = [(_WIDE, 0, figure.top), (_WIDE, 1, figure.top), (_NARROW, 0, figure.top)]
        plan += [("coats", 0, figure.top)] if has_coat else []
        plan += [(_NARROW, 1, figure.top), (_NARROW, 2, figure.top)]
        fore_arms = [(_NARROW, 3, sleeve), (_NARROW, 4, sleeve)]
        plan += fore_arms if figure.long_sleeves else []
        plan += [(_BALLS, 0, figure.legs), *((_WIDE, slot, figure.legs) for slot in range(2, 6))]
        plan += [(_NARROW, 5, figure.shoes), (_NARROW, 6, figure.shoes)]
        plan += [(_BALLS, 1, figure.skin), (_NARROW, 7, figure.skin)]
        plan += [(_HANDS, 0, figure.skin), (_HANDS, 1, figure.skin)]
        plan += [] if figure.long_sleeves else fore_arms
        plan += [(_BALLS, 2, figure.hair)]
        return plan + ([(_BALLS, 3, figure.bag)] if figure.has_bag else [])

    def _solids(self, phases: Floats, swings: Floats) -> dict[str, Mesh]:
        """Every kind of solid of all bodies, before they are scaled to their heights."""
        wide, count = self._build, len(self._figures)
        lean = np.full(count, 0.28) if self._seated else 0.04 * swings
        hip = _rows(0.0, 0.0, 0.90, count)
        chest = hip + _rows(0.46 * np.sin(lean), 0, 0.46 * np.cos(lean), count)
        head = chest + _rows(0.06 * np.sin(lean) + 0.02, 0, 0.30, count)
        raised, shoulder = chest + vector(0, 0, 0.02), _rows(0, 0.15 * wide, 0, count)
        thick, thin = _Limbs(count), _Limbs(count)
        for side in (-1, 1):
            low = hip + _rows(0, side * 0.06 * wide, 0.04, count)
            high = chest + _rows(0, side * 0.08 * wide, -0.05, count)
            thick.add(low, high, 0.125 * wide, 0.13 * wide)
        thin.add(raised - shoulder, raised + shoulder, 0.075, 0.075)
        feet = self._legs(hip, phases, swings, thick)
        hands = self._arms(chest, phases, swings, thin)
        for foot in feet:
            thin.add(foot + vector(-0.03, 0, -0.025), foot + vector(0.15, 0, -0.03), 0.05, 0.042)
        thin.add(chest, head, 0.055, 0.055)
        centres = [hip, head, head + vector(-0.018, 0, 0.022), chest + vector(-0.2, 0, -0.12)]
        radii = [
            _rows(0.14 * wide, 0.18 * wide, 0.13, count),
            *(
                _rows(*each, count)
                for each in ((0.098, 0.082, 0.125), (0.104, 0.092, 0.12), (0.13, 0.17, 0.24))
            ),
        ]
        palms = np.stack(hands, axis=1).reshape(-1, 3)
        solids = {
            _WIDE: thick.mesh(8),
            _NARROW: thin.mesh(6),
            _BALLS: ellipsoids(_flattened(centres), _flattened(radii)),
            _HANDS: ellipsoids(palms, _rows(0.05, 0.04, 0.06, len(palms)), 4, 6),
        }
        return solids | ({"coats": join(self._coats)} if self._coats else {})

    def _legs(self, hip: Floats, phases: Floats, swings: Floats, limbs: _Limbs) -> list[Floats]:
        """Adds thighs and shins; returns the places of the feet."""
        feet, count = [], len(phases)
        for side, turn in ((-1, phases), (1, phases + np.pi)):
            start = hip + _rows(0, 0.09 * side * self._build, 0, count)
            if self._seated:
                foot = _rows(
                    0.12 + 0.17 * np.cos(turn), 0.1 * side, 0.36 + 0.17 * np.sin(turn), count
                )
                knee = (start + foot) / 2 + vector(0.24, 0, 0.1)
            else:
                thigh = 0.50 * swings * np.sin(turn)
                bend = thigh - 0.95 * swings * np.maximum(0.0, np.cos(turn)) * 0.75 - 0.06
                knee = start + 0.42 * _rows(np.sin(thigh), 0, -np.cos(thigh), count)
                foot = knee + 0.42 * _rows(np.sin(bend), 0, -np.cos(bend), count)
            limbs.add(start, knee, 0.085 * self._build, 0.062)
            limbs.add(knee, foot, 0.060, 0.045)
            feet.append(foot)
        return feet

    def _arms(self, chest: Floats, phases: Floats, swings: Floats, limbs: _Limbs) -> list[Floats]:
        """Adds upper arms, then fore-arms; returns the places of the hands."""
        bones, count = [], len(phases)
        for side, turn in ((-1, phases + np.pi), (1, phases)):
            shoulder = chest + _rows(0, 0.2 * side * self._build, 0.0, count)
            if self._seated:
                elbow = shoulder + vector(0.2, 0.04 * side, -0.2)
                hand = _rows(0.47, 0.24 * side, 1.0, count)
            else:
                angle = 0.45 * swings * np.sin(turn)
                elbow = shoulder + 0.29 * _rows(np.sin(angle), 0.08 * side, -np.cos(angle), count)
                fore = angle + 0.15 + 0.3 * swings
                hand = elbow + 0.25 * _rows(np.sin(fore), -0.04 * side, -np.cos(fore), count)
            bones.append((shoulder, elbow, hand))
        for shoulder, elbow, _ in bones:
            limbs.add(shoulder, elbow, 0.056, 0.046)
        for _, elbow, hand in bones:
            limbs.add(elbow, hand, 0.045, 0.036)
        return [hand for *_, hand in bones]


class _Limbs:
    """Rounded limbs of N bodies, each kind of limb added for all of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._starts: list[Floats] = []
        self._ends: list[Floats] = []
        self._radii: list[Floats] = []

    def add(
        self, starts: Floats, ends: Floats, radius: Floats | float, end_radius: Floats | float
    ) -> None:
        """Adds one limb of every body; places (N, 3), radii of all or of each."""
        self._starts.append(starts)
        self._ends.append(ends)
        self._radii.append(_rows(radius, end_radius, 0, self._count))

    def mesh(self, sectors: int) -> Mesh:
        """The limbs, body by body in the order of `add`."""
        radii, end_radii, _ = _flattened(self._radii).T
        return capsules(
            _flattened(self._starts), _flattened(self._ends), radii, end_radii, sectors
        )


def _flattened(columns: list[Floats]) -> Floats:
    """Rows (N, 3) of K things as (N * K, 3), all things of the first row first."""
    return np.stack(columns, axis=1).reshape(-1, 3)


def _rows(x: Floats | float, y: Floats | float, z: Floats | float, count: int) -> Floats:
    """Vectors (count, 3) of components that are shared or one each."""
    rows = np.empty((count, 3))
    rows[:, 0], rows[:, 1], rows[:, 2] = x, y, z
    return rows


def _coat(figure: Figure) -> Mesh:
    hem, waist = (0.0, 0.0, 0.90 - figure.coat), (0.0, 0.0, 0.90 + 0.12)
    return tube(hem, waist, 0.21 * figure.build, 9, 0.16 * figure.build)


def draw_figure(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    instance: int,
    alive: bool = True,
    label: int | None = None,
) -> Figure:
    """A random person, or a mannequin with the same looks at air temperature.

    Args:
        parts: table that the body's parts are added to.
        rng: draws the looks.
        climate: decides clothing and temperatures.
        instance: object id.
        alive: False for a mannequin.
        label: native class id; None for the street's person or static object.
    """
    air = climate.air_kelvin
    if label is None:
        label = street_id("person" if alive else "static object")
    warmth = 1.0 if alive else 0.0

    def part(colour: tuple[float, float, float], share: float) -> int:
        kelvin = air + warmth * share * (SKIN_KELVIN - air)
        return parts.add(
            Part(
                label,
                colour,
                Pattern.CLOTH,
                kelvin=kelvin,
                sun_kelvin=2.0,
                emissivity=0.975,
                instance=instance,
            )
        )

    skin = SKINS[int(rng.integers(len(SKINS)))]
    top = CLOTHS[int(rng.integers(len(CLOTHS)))]
    legs = CLOTHS[int(rng.integers(len(CLOTHS)))]
    thick = float(np.clip((298 - air) / 25, 0.1, 0.9))
    return Figure(
        skin=part(skin, 0.93),
        hair=part((0.03, 0.02, 0.015), 0.62),
        top=part(top, 0.62 - 0.25 * thick + rng.uniform(-0.06, 0.06)),
        legs=part(legs, 0.58 - 0.15 * thick + rng.uniform(-0.06, 0.06)),
        shoes=part((0.03, 0.025, 0.02), 0.3),
        bag=part(CLOTHS[int(rng.integers(len(CLOTHS)))], 0.08),
        height=float(rng.uniform(1.5, 1.95)),
        build=float(rng.uniform(0.92, 1.22)),
        coat=float(rng.choice([0.0, 0.0, 0.35, 0.45])),
        has_bag=bool(rng.uniform() < 0.3),
        long_sleeves=bool(thick > 0.3 or rng.uniform() < 0.4),
    )
