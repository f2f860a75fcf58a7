"""How densely a street is built and used, and how its camera is mounted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StreetLayout:
    """Counts and sizes that a street is drawn by; the defaults are the renderer's usual street.

    Attributes:
        storeys: lowest number of storeys, and the one above the highest.
        setbacks: chances of houses at the sidewalk, 2.5 m and 5 m behind it.
        open_sides: whether greenery stands in place of houses, right and left of the road.
        has_car_park: an open side has rows of parked cars.
        shop_signs: shops have a coloured band above their window.
        tree_size: smallest and largest factor.
        leaf_patches: of each part of a near tree's crown.
        tree_spacing: of a row, m.
        row_share: chance of a row of trees, per side.
        bare_share: share of trees without leaves.
        bushes: trees beyond the houses.
        green_from: distance of those from the sidewalk, m.
        signs: traffic signs.
        small_things: bins and boxes.
        parked_share: taken places of the parking strips.
        parked_gap: distance of the places, m.
        vans: share of vans among the cars.
        walkers: lowest number of people on sidewalks, and the one above the highest.
    """

    storeys: tuple[int, int] = (2, 5)
    setbacks: tuple[float, float, float] = (0.5, 0.3, 0.2)
    open_sides: tuple[bool, bool] = (False, False)
    has_car_park: bool = False
    shop_signs: bool = False
    tree_size: tuple[float, float] = (0.85, 1.3)
    leaf_patches: int = 130
    tree_spacing: tuple[float, float] = (8.0, 16.0)
    row_share: float = 0.75
    bare_share: float = 0.0
    bushes: int = 22
    green_from: float = 6.0
    signs: int = 12
    small_things: int = 6
    parked_share: float = 0.68
    parked_gap: tuple[float, float] = (5.2, 8.5)
    vans: float = 0.0
    walkers: tuple[int, int] = (7, 15)


def draw_layout(rng: np.random.Generator) -> StreetLayout:
    """A layout as widely as streets differ; see `docs/data.md`."""
    lowest = int(rng.integers(1, 4))
    right, left = rng.uniform(size=2) < 0.22
    least = int(rng.choice([0, 4, 10, 22], p=[0.2, 0.35, 0.3, 0.15]))
    return StreetLayout(
        storeys=(lowest, lowest + int(rng.integers(1, 5))),
        setbacks=(0.75, 0.15, 0.10),
        open_sides=(bool(right), bool(left)),
        has_car_park=bool(rng.uniform() < 0.35),
        shop_signs=bool(rng.uniform() < 0.7),
        tree_size=(0.7, float(rng.uniform(1.0, 2.3))),
        leaf_patches=220,
        tree_spacing=(float(rng.uniform(4, 9)), float(rng.uniform(10, 22))),
        row_share=float(rng.uniform(0.2, 0.9)),
        bare_share=float(rng.choice([0.0, rng.uniform(0.2, 1.0)], p=[0.5, 0.5])),
        bushes=int(rng.integers(20, 60)),
        green_from=float(rng.uniform(2, 8)),
        signs=int(rng.integers(4, 22)),
        small_things=int(rng.integers(3, 16)),
        parked_share=float(rng.uniform(0.5, 0.95)),
        parked_gap=(4.9, float(rng.uniform(5.4, 8.0))),
        vans=float(rng.uniform(0.0, 0.25)),
        walkers=(least, least + 12),
    )


@dataclass(frozen=True)
class Mount:
    """How a camera is mounted on its vehicle.

    Attributes:
        height: above the ground, m.
        offset: from the street's centre as a share of the lane.
        turn: to the left of the street, rad.
        tilt: downwards, rad.
        roll: about the optical axis, rad.
        field_of_view_deg: horizontal.
    """

    height: float
    offset: float
    turn: float
    tilt: float
    roll: float
    field_of_view_deg: float


def draw_mount(rng: np.random.Generator) -> Mount:
    """A mount as widely as they differ; see `docs/data.md`."""
    straight = rng.uniform() < 0.75
    return Mount(
        height=float(np.exp(rng.uniform(np.log(0.8), np.log(2.8)))),
        offset=float(rng.uniform(0.1, 0.95)),
        turn=float(rng.normal(0, 0.08) if straight else rng.uniform(-0.7, 0.7)),
        tilt=float(np.clip(rng.normal(0.03, 0.06), -0.15, 0.2)),
        roll=float(rng.normal(0, 0.012)),
        field_of_view_deg=float(rng.uniform(38, 100)),
    )
