"""The ground plan of a street: what the layout and the paint on the road agree on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.world.rays.vectors import Floats


@dataclass(frozen=True)
class StreetPlan:
    """A straight two-lane street along x, bent sideways when the scene is built.

    Attributes:
        key: integer that varies road repairs.
        lane_width: metres.
        road_half: half the carriageway with parking strips.
        walk_width: width of the sidewalks.
        verge: width of the grass strip between kerb and sidewalk; 0 for none.
        line_width: metres.
        edge_line: distance of the edge lines from the centre.
        has_edge_lines: edge lines are painted.
        dashed: the centre line is dashed.
        dash_phase: metres.
        bend: sideways shift per squared metre along x.
        zebras: x where zebra crossings begin.
        crossings: centres of side streets along x.
        crossing_half: half the width of a side street.
        puddles: centre x, y and radii x, y of standing water.
        lanes: per direction.
        has_centre_line: the two directions are divided by a line.
        strokes: other paint: straight strokes from x, y to x, y, and their width.
    """

    key: int
    lane_width: float
    road_half: float
    walk_width: float
    verge: float
    line_width: float
    edge_line: float
    has_edge_lines: bool
    dashed: bool
    dash_phase: float
    bend: float
    zebras: tuple[float, ...]
    crossings: tuple[float, ...]
    crossing_half: float
    puddles: tuple[tuple[float, float, float, float], ...]
    lanes: int = 1
    has_centre_line: bool = True
    strokes: tuple[tuple[float, float, float, float, float], ...] = ()

    @property
    def walk_inner(self) -> float:
        """Distance of the sidewalk's inner edge from the centre."""
        return self.road_half + self.verge

    @property
    def walk_outer(self) -> float:
        """Distance of the sidewalk's outer edge from the centre."""
        return self.walk_inner + self.walk_width

    def shift(self, x: Floats | float) -> Floats:
        """Sideways shift of the street at `x`."""
        return np.asarray(self.bend * np.square(np.asarray(x)), np.float32)

    def heading(self, x: float) -> float:
        """Direction of the street at `x`, rad from the x axis."""
        return float(np.arctan(2 * self.bend * x))

    def beyond_crossings(self, x: Floats) -> Floats:
        """1 where lines are painted, 0 on zebra crossings and in junctions."""
        free = np.ones(len(x), np.float32)
        for centre in self.crossings:
            free[np.abs(x - centre) < self.crossing_half + 0.5] = 0
        for start in self.zebras:
            free[(x > start - 1.6) & (x < start + 3.7)] = 0
        return free

    def is_free(self, x: float, margin: float = 1.5) -> bool:
        """Whether something solid may stand beside the road at `x`."""
        if any(abs(x - centre) < self.crossing_half + margin for centre in self.crossings):
            return False
        return not any(start - margin < x < start + 3.2 + margin for start in self.zebras)


def draw_plan(rng: np.random.Generator) -> StreetPlan:
    """A random plan for x between about -20 and 150 m."""
    lane = rng.uniform(2.7, 3.3)
    half = lane + rng.choice([0.2, 2.1])
    crossings = tuple(rng.uniform([22, 75], [50, 115])) if rng.uniform() < 0.55 else ()
    zebra_count = int(rng.integers(1, 4))
    zebras = [float(rng.uniform(8 + 32 * i, 30 + 32 * i)) for i in range(zebra_count)]
    crossing_half = 3.2
    zebras = [
        centre - crossing_half - 4.2 if abs(z + 1.6 - centre) < crossing_half + 4 else z
        for z in zebras
        for centre in [min(crossings, key=lambda c: abs(c - z), default=-1e3)]
    ]
    puddles = tuple(
        (
            float(rng.uniform(3, 90)),
            float(rng.choice([-1, 1]) * rng.uniform(0.2, half - 0.3)),
            float(rng.uniform(0.9, 3.2)),
            float(rng.uniform(0.4, 1.2)),
        )
        for _ in range(int(rng.integers(14, 26)))
    )
    return StreetPlan(
        key=int(rng.integers(1, 1000)),
        lane_width=float(lane),
        road_half=float(half),
        walk_width=float(rng.uniform(1.8, 3.0)),
        verge=float(rng.choice([0.0, 0.0, 1.2, 1.8])),
        line_width=float(rng.uniform(0.16, 0.24)),
        edge_line=float(lane - 0.05),
        has_edge_lines=bool(rng.uniform() < 0.75),
        dashed=bool(rng.uniform() < 0.7),
        dash_phase=float(rng.uniform(0, 6)),
        bend=float(rng.uniform(-1, 1) ** 3 * 0.0022),
        zebras=tuple(zebras),
        crossings=tuple(float(c) for c in crossings),
        crossing_half=crossing_half,
        puddles=puddles,
    )


def vary_plan(plan: StreetPlan, rng: np.random.Generator) -> StreetPlan:
    """A plan as widely as streets differ: lanes, strips, markings; see `docs/data.md`."""
    lanes, lane = int(rng.choice([1, 2], p=[0.7, 0.3])), float(rng.uniform(2.6, 3.7))
    half = lanes * lane + float(rng.choice([0.2, 2.1], p=[0.35, 0.65]))
    reach = float(rng.uniform(3, 8))
    crossings = tuple(rng.uniform([14, 60], [45, 115])) if rng.uniform() < 0.6 else ()
    zebras = [float(x) for x in rng.uniform([-60, 20], [40, 90])[: int(rng.integers(1, 3))]]
    for index, start in enumerate(zebras):
        for centre in crossings:
            if abs(start + 1.6 - centre) < reach + 4:
                zebras[index] = centre - reach - 4.2
    varied = replace(
        plan,
        lane_width=lane,
        road_half=half,
        walk_width=float(rng.uniform(1.2, 5.0)),
        verge=float(rng.choice([0.0, rng.uniform(0.8, 3.0)], p=[0.7, 0.3])),
        line_width=float(rng.uniform(0.09, 0.2)),
        edge_line=lanes * lane - 0.05,
        has_edge_lines=bool(rng.uniform() < 0.35),
        dashed=bool(rng.uniform() < 0.6),
        bend=float(rng.uniform(-1, 1) ** 3 * 0.004),
        zebras=tuple(zebras),
        crossings=tuple(float(c) for c in crossings),
        crossing_half=reach,
        puddles=plan.puddles[: int(rng.choice([0, 3, 12]))],
        lanes=lanes,
        has_centre_line=bool(rng.uniform() < 0.75),
    )
    return replace(varied, strokes=tuple(_strokes(varied, rng)))


def _strokes(
    plan: StreetPlan, rng: np.random.Generator
) -> list[tuple[float, float, float, float, float]]:
    """Lane dividers, arrows, hatched areas, parking bays and lines along the kerb."""
    strokes = []
    half, lane, wide = plan.road_half, plan.lane_width, plan.line_width
    if plan.lanes > 1:
        length, gap = rng.uniform(1.5, 4), rng.uniform(3, 8)
        for x in np.arange(rng.uniform(0, 6), 70, length + gap):
            strokes += [(x, s * lane, x + length, s * lane, wide) for s in (-1, 1)]
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.5, 0.2, 0.2, 0.1]))):
        x, y = rng.uniform(4, 35), rng.choice([-1, 1]) * lane * (rng.integers(plan.lanes) + 0.5)
        head = 1.1 if y < 0 else -1.1
        strokes.append((x, y, x + 2.5 * head, y, 0.16))
        strokes += [(x + 2.6 * head, y, x + 1.6 * head, y + s * 0.4, 0.22) for s in (-1, 1)]
    if rng.uniform() < 0.3:
        x, y, size = rng.uniform(5, 30), rng.uniform(-half, 0), rng.uniform(1, 3)
        for k in range(int(rng.integers(4, 10))):
            strokes.append((x + k * 0.9, y, x + k * 0.9 + size, y + size, 0.12))
    if half > plan.lanes * lane + 1 and rng.uniform() < 0.4:
        for x in np.arange(rng.uniform(0, 5), 60, rng.uniform(2.6, 6.5)):
            strokes += [(x, s * half, x, s * (half - 2.0), 0.1) for s in (-1, 1)]
    if rng.uniform() < 0.35:
        for y in (half - 0.22, half - 0.42)[: int(rng.integers(1, 3))]:
            strokes += [(-60, s * y, 260, s * y, 0.08) for s in (-1, 1)]
    return [tuple(float(v) for v in stroke) for stroke in strokes]  # type: ignore[misc]
