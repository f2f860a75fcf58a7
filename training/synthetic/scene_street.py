"""Random streets: houses, trees, furniture, traffic and people along a two-lane road."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segrgbx_core.label_tables import SYNTHETIC_STREET
from training.synthetic.cameras import Camera, look
from training.synthetic.climate import Climate, TimeOfDay, draw_climate
from training.synthetic.geometry import block, flat, join, quad, sheet
from training.synthetic.materials import Part, PartTable, Pattern, street_id
from training.synthetic.objects import (
    Pieces,
    bicycle,
    bin_box,
    car,
    hedge,
    placed,
    shelter,
    street_lamp,
    traffic_light,
    traffic_sign,
    tree,
)
from training.synthetic.people import Figure, draw_figure
from training.synthetic.plan import StreetPlan, draw_plan
from training.synthetic.records import Light, WorldConfig
from training.synthetic.scene import Lamp, Scene

KERB = 0.12
NEAR, END = -16.0, 112.0


def street_scene(seed: int, config: WorldConfig) -> Scene:
    """The street of a seed."""
    rng = np.random.default_rng([seed, 17])
    plan = draw_plan(rng)
    climate = draw_climate(
        rng, None if config.light is Light.ANY else TimeOfDay(config.light.value)
    )
    speed = float(
        rng.choice([0.0, 1.5, 4.0, 7.0], p=[0.15, 0.2, 0.4, 0.25]) * rng.uniform(0.7, 1.2)
    )
    if config.speed_mps >= 0:
        speed = config.speed_mps
    maker = _StreetMaker(seed, rng, plan, climate, config, speed)
    maker.ground()
    maker.houses()
    maker.greenery()
    maker.furniture()
    maker.traffic()
    maker.people()
    return maker.scene


def _camera(
    rng: np.random.Generator, plan: StreetPlan, config: WorldConfig, speed: float
) -> Callable[[float], Camera]:
    on_walk = rng.uniform() < 0.22
    side = (
        -plan.walk_inner - 0.4 * plan.walk_width
        if on_walk
        else -plan.lane_width * rng.uniform(0.35, 0.6)
    )
    height = rng.uniform(1.0, 1.4) + KERB if on_walk else rng.uniform(1.25, 1.75)
    start, tilt = rng.uniform(-3, 3), rng.uniform(-0.01, 0.07)
    turn = rng.uniform(0.0, 0.22) if on_walk else rng.normal(0, 0.06)
    sway = rng.uniform(0.2, 1.0, 3) * [0.006, 0.008, 0.008]
    phase = rng.uniform(0, 6, 3)
    focal = config.width / 2 / np.tan(np.radians(config.field_of_view_deg) / 2)

    def camera(time_s: float) -> Camera:
        x = start + speed * time_s
        shake = (
            sway * np.sin(np.array([1.9, 2.7, 1.4]) * time_s + phase) * min(1.0, speed / 3 + 0.15)
        )
        position = np.array([x, side + plan.shift(x), height + 2 * shake[0]], np.float32)
        axes = look(position, plan.heading(x + 8) + turn + shake[1], tilt + shake[0], shake[2])
        return Camera(config.width, config.height, float(focal), position, axes)

    return camera


class _StreetMaker:
    """Fills a scene step by step; the order of steps is part of what a seed means."""

    def __init__(
        self,
        seed: int,
        rng: np.random.Generator,
        plan: StreetPlan,
        climate: Climate,
        config: WorldConfig,
        speed: float,
    ) -> None:
        self.rng, self.plan, self.climate, self.speed = rng, plan, climate, speed
        self.camera = _camera(rng, plan, config, speed)
        self.scene = Scene(
            seed=seed,
            climate=climate,
            plan=plan,
            parts=PartTable(),
            sky_label=street_id("sky"),
            pane_label=street_id("glass"),
            label_space=SYNTHETIC_STREET.name,
            camera=self.camera,
            meta={
                "time_of_day": climate.time_of_day.value,
                "speed_mps": speed,
                "fog": climate.fog,
            },
        )
        self.instances = 0
        on_walk = abs(float(self.camera(0.0).position[1])) > plan.road_half
        self.beam = np.float32(0.3 if on_walk else 1.0)
        if climate.lamps_on:
            self.scene.moving_lamps.append(self._head_lamps)

    def part(
        self,
        name: str,
        colour: tuple[float, float, float],
        pattern: Pattern = Pattern.PLAIN,
        **facts,
    ) -> int:  # type: ignore[no-untyped-def]
        facts.setdefault("kelvin", self.climate.air_kelvin)
        return self.scene.parts.add(Part(street_id(name), colour, pattern, **facts))

    def put(
        self, pieces: Pieces, x: float, y: float, z: float = 0.0, heading: float = 0.0
    ) -> None:
        """Stands pieces beside the straight street; bending happens later."""
        self.scene.statics += placed(pieces, (x, y, z), heading)

    def _head_lamps(self, time_s: float) -> list[Lamp]:
        eye = self.camera(time_s)
        way = eye.axes[2] * [1, 1, 0] + [0, 0, -0.045]
        place = (eye.position + 1.2 * eye.axes[2]) * [1, 1, 0] + [0, 0, 0.7]
        return [
            Lamp(place.astype(np.float32), np.array([14.0, 13.2, 11.8], np.float32) * self.beam,
                 (way / np.linalg.norm(way)).astype(np.float32), 0.80, 45.0)
        ]  # fmt: skip

    def ground(self) -> None:
        """Carriageway, kerbs, sidewalks, verges, gardens and side streets."""
        rng, plan = self.rng, self.plan
        tone = rng.uniform(0.045, 0.085)
        road = self.part(
            "road",
            (tone * 1.02, tone, tone * 0.97),
            Pattern.ROAD,
            sun_kelvin=9.0,
            emissivity=0.957,
        )
        pave_tone = rng.uniform(0.16, 0.30) * np.array(
            [1.0, rng.uniform(0.93, 1.0), rng.uniform(0.82, 0.98)]
        )
        walk = self.part(
            "sidewalk", tuple(pave_tone), Pattern.PAVING, sun_kelvin=7.0, emissivity=0.93
        )
        kerb = self.part(
            "sidewalk",
            (0.33, 0.33, 0.32),
            kelvin=self.climate.air_kelvin + 1.2,
            sun_kelvin=6.0,
            emissivity=0.92,
        )
        green = np.array([0.075, 0.115, 0.03]) * rng.uniform(0.8, 1.3)
        grass = self.part("terrain", tuple(green), Pattern.GRASS, sun_kelvin=3.0, emissivity=0.97)
        half, put = plan.road_half, self.scene.statics
        put.append((sheet((-60, 260), (-half, half), 0.0, 4.0), road))
        put.append((sheet((-400, 700), (-400, 400), -0.06), grass))
        for left, right in self._blocks():
            for side in (-1, 1):

                def span(inner: float, outer: float, s: int = side) -> tuple[float, float]:
                    return (s * inner, s * outer) if s > 0 else (s * outer, s * inner)

                cuts = list(np.arange(left, right, 6.0)) + [right]
                for a, b in zip(cuts[:-1], cuts[1:], strict=True):
                    put.append((block((a, b), span(half, half + 0.16), (-0.1, KERB)), kerb))
                    if plan.verge:
                        put.append(
                            (sheet((a, b), span(half + 0.16, plan.walk_inner), KERB - 0.01), grass)
                        )
                    put.append(
                        (
                            sheet(
                                (a, b),
                                span(max(plan.walk_inner, half + 0.16), plan.walk_outer),
                                KERB,
                            ),
                            walk,
                        )
                    )
                    put.append((sheet((a, b), span(plan.walk_outer, 45.0), KERB - 0.03), grass))
        for centre in plan.crossings:
            reach = plan.crossing_half
            put.append((sheet((centre - reach, centre + reach), (-70, -half), 0.0), road))
            put.append((sheet((centre - reach, centre + reach), (half, 70), 0.0), road))

    def _blocks(self) -> list[tuple[float, float]]:
        edges = [-60.0]
        for centre in sorted(self.plan.crossings):
            edges += [centre - self.plan.crossing_half, centre + self.plan.crossing_half]
        edges.append(260.0)
        return list(zip(edges[::2], edges[1::2], strict=True))

    def houses(self) -> None:
        """Two rows of houses with gaps, garden walls' worth of hedges, and a closing row far away."""
        rng = self.rng
        for side in (-1, 1):
            setback = self.plan.walk_outer + rng.choice([0.05, 2.5, 5.0], p=[0.5, 0.3, 0.2])
            x = NEAR + rng.uniform(-8, 0)
            while x < END + 40:
                width = rng.uniform(8, 17)
                if self._house_fits(x, x + width) and rng.uniform() < 0.88:
                    self._house(x, width, side, setback)
                    if setback > self.plan.walk_outer + 1 and rng.uniform() < 0.6:
                        length = width * 0.8
                        self.put(
                            hedge(self.scene.parts, rng, self.climate, length),
                            x + width / 2, side * (self.plan.walk_outer + 0.5), KERB,
                        )  # fmt: skip
                x += width + (0.0 if rng.uniform() < 0.55 else rng.uniform(1.5, 7))
        for y in (-26.0, -9.0, 8.0, 25.0):
            self._house(END + 60 + rng.uniform(0, 12), 14.0, 0, y)

    def _house_fits(self, left: float, right: float) -> bool:
        margin = self.plan.crossing_half + self.plan.walk_width * 0.8
        return all(right < c - margin or left > c + margin for c in self.plan.crossings)

    def _house(self, x: float, width: float, side: int, setback: float) -> None:
        rng = self.rng
        style = int(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2]))
        tones = ([(0.55, 0.48, 0.36), (0.6, 0.58, 0.53), (0.5, 0.36, 0.26), (0.36, 0.42, 0.42), (0.55, 0.30, 0.22)],
                 [(0.27, 0.12, 0.08), (0.34, 0.20, 0.13), (0.22, 0.15, 0.12)], [(0.33, 0.33, 0.32), (0.42, 0.40, 0.37)])[style]  # fmt: skip
        tone = np.array(tones[int(rng.integers(len(tones)))]) * rng.uniform(0.75, 1.15)
        storey, levels, depth = rng.uniform(2.8, 3.3), int(rng.integers(2, 5)), rng.uniform(8, 11)
        high = storey * levels + rng.uniform(0.2, 0.6)
        bay = width / max(2, round(width / rng.uniform(2.4, 3.4)))
        params = (
            x,
            0.0,
            storey,
            bay,
            min(bay * 0.62, rng.uniform(0.95, 1.7)),
            rng.uniform(1.25, 1.7),
            style,
            int(rng.integers(1, 9999)),
        )
        if side == 0:
            y0, y1 = setback - 8, setback + 8
            params = (y0, *params[1:])
        else:
            y0, y1 = sorted((side * setback, side * (setback + depth)))
        warm = rng.uniform(0.5, 4.0)
        wall = self.part("building", tuple(tone), Pattern.FACADE, params=params,
                         kelvin=self.climate.air_kelvin + warm, sun_kelvin=8.0, emissivity=0.93)  # fmt: skip
        put = self.scene.statics
        put.append((block((x, x + width), (y0, y1), (-0.1, high)), wall))
        trim = self.part(
            "building", tuple(np.minimum(tone * 1.25, 0.75)), kelvin=self.climate.air_kelvin + 0.8
        )
        put.append(
            (
                block((x - 0.08, x + width + 0.08), (y0 - 0.15, y1 + 0.15), (high - 0.25, high)),
                trim,
            )
        )
        if rng.uniform() < 0.62:
            self._roof(x, width, (y0, y1), high)
        if side and rng.uniform() < 0.4:
            self._balconies(x, bay, storey, levels, (side, setback), trim)

    def _roof(self, x: float, width: float, span: tuple[float, float], high: float) -> None:
        rng = self.rng
        colour = [(0.24, 0.08, 0.05), (0.09, 0.09, 0.10), (0.16, 0.10, 0.07)][int(rng.integers(3))]
        cold = -4.0 if self.climate.lamps_on else 1.0
        tiles = self.part(
            "building",
            colour,
            Pattern.TILES,
            kelvin=self.climate.air_kelvin + cold,
            sun_kelvin=14.0,
        )
        y0, y1 = span[0] - 0.35, span[1] + 0.35
        ridge, middle, x1 = high + rng.uniform(2.0, 3.8), sum(span) / 2, x + width
        slopes = [
            quad((x, y0, high), (x1, y0, high), (x1, middle, ridge), (x, middle, ridge)),
            quad((x1, y1, high), (x, y1, high), (x, middle, ridge), (x1, middle, ridge)),
            flat([[(x, y0, high), (x, middle, ridge), (x, y1, high)]]),
            flat([[(x1, y0, high), (x1, y1, high), (x1, middle, ridge)]]),
        ]
        self.scene.statics.append((join(slopes), tiles))
        if rng.uniform() < 0.6:
            brick = self.part(
                "building", (0.26, 0.12, 0.08), Pattern.BRICK, kelvin=self.climate.air_kelvin + 3
            )
            at = x + rng.uniform(0.2, 0.8) * width
            self.scene.statics.append(
                (block((at, at + 0.6), (middle - 1.5, middle - 0.9), (high, ridge + 0.7)), brick)
            )

    def _balconies(
        self, x: float, bay: float, storey: float, levels: int, front: tuple[int, float], trim: int
    ) -> None:
        side, setback = front
        column = int(self.rng.integers(0, 3))
        left = x + column * bay + 0.15
        for level in range(1, levels):
            z = level * storey
            y = sorted((side * setback, side * (setback - 0.95)))
            rail = sorted((side * (setback - 0.9), side * (setback - 0.95)))
            self.scene.statics.append(
                (block((left, left + bay - 0.3), (y[0], y[1]), (z - 0.1, z + 0.05)), trim)
            )
            self.scene.statics.append(
                (block((left, left + bay - 0.3), (rail[0], rail[1]), (z, z + 0.9)), trim)
            )

    def greenery(self) -> None:
        """Street trees on verges or in gardens, bushes, and woods behind everything."""
        rng, plan = self.rng, self.plan
        near = [
            tree(self.scene.parts, rng, self.climate, rng.uniform(0.85, 1.3)) for _ in range(4)
        ]
        far = [
            tree(self.scene.parts, rng, self.climate, rng.uniform(1, 1.5), 36) for _ in range(3)
        ]
        for side in (-1, 1):
            if rng.uniform() < 0.25:
                continue
            spacing = rng.uniform(8, 16)
            line = plan.road_half + 0.7 if plan.verge else plan.walk_outer - 0.35
            for x in np.arange(rng.uniform(2, 10), END - 10, spacing):
                if plan.is_free(float(x)):
                    model = (near if x < 60 else far)[int(rng.integers(3))]
                    at = (x + rng.uniform(-1, 1), side * line)
                    self.put(model, *at, KERB, rng.uniform(0, 6))
        for _ in range(22):
            x, y = rng.uniform(0, 190), rng.uniform(plan.walk_outer + 6, 30) * rng.choice([-1, 1])
            self.put(far[int(rng.integers(3))], x, y, 0.0, rng.uniform(0, 6))
        for y in range(-44, 45, 8):
            x = 205 + rng.uniform(0, 20)
            self.put(far[int(rng.integers(3))], x, y, 0.0, rng.uniform(0, 6))

    def furniture(self) -> None:
        """Lamps, signs, lights, bins, shelters and parked bicycles."""
        rng, plan, parts = self.rng, self.plan, self.scene.parts
        side = int(rng.choice([-1, 1]))
        height, spacing = rng.uniform(4.6, 6.0), rng.uniform(14, 22)
        lamp, place = street_lamp(parts, self.climate, height, 0.9)
        colour = np.array(
            [[7.5, 5.0, 2.6], [7.0, 6.2, 5.0]][int(rng.integers(2))], np.float32
        ) * rng.uniform(0.7, 1.3)
        for i, x in enumerate(np.arange(rng.uniform(-6, 9), END, spacing)):
            at = side if i % 2 == 0 or height < 5.2 else -side
            y = at * (plan.road_half + 0.35)
            if not plan.is_free(float(x), 0.5):
                continue
            heading = 0.0 if at < 0 else np.pi
            self.put(lamp, x, y, KERB, heading)
            spot = np.array([x, y - at * place[1] + plan.shift(x), KERB + place[2]], np.float32)
            if self.climate.lamps_on and rng.uniform() < 0.92:
                down = np.array([0, 0, -1], np.float32)
                self.scene.lamps.append(Lamp(spot, colour * np.float32(1.5), down, 0.05, 19.0))
        for x in np.cumsum(rng.uniform(5, 15, 12)) + 2:
            at = int(rng.choice([-1, -1, 1]))
            if plan.is_free(float(x), 0.6):
                y = at * (plan.road_half + rng.uniform(0.3, 0.6))
                pieces = traffic_sign(
                    parts, rng, self.climate, (float(x), float(y + plan.shift(x)), KERB)
                )
                self.scene.statics += [
                    (mesh.moved((0, -float(plan.shift(x)), 0)), part) for mesh, part in pieces
                ]
        if plan.crossings or rng.uniform() < 0.3:
            green = bool(rng.uniform() < 0.5)
            for start in plan.zebras:
                for at in (-1, 1):
                    self.put(
                        traffic_light(parts, self.climate, green),
                        start - 0.6,
                        at * (plan.road_half + 0.4),
                        KERB,
                    )
        self._small_things()

    def _small_things(self) -> None:
        rng, plan, parts = self.rng, self.plan, self.scene.parts
        for x in rng.uniform(4, 60, 6):
            at = int(rng.choice([-1, 1]))
            if plan.is_free(float(x), 0.5):
                self.put(bin_box(parts, rng, self.climate), x, at * (plan.walk_outer - 0.5), KERB)
        for x in rng.uniform(5, 45, int(rng.integers(1, 3))):
            at = int(rng.choice([-1, 1]))
            if plan.is_free(float(x), 3.5):
                pieces, panes = shelter(parts, self.climate)
                y, heading = at * (plan.walk_outer - 0.9), 0.0 if at > 0 else np.pi
                self.put(pieces, x, y, KERB, heading)
                self.scene.panes += placed(panes, (x, y, KERB), heading)
        for x in rng.uniform(3, 40, int(rng.integers(2, 6))):
            at = int(rng.choice([-1, 1]))
            motor = bool(rng.uniform() < 0.5)
            if plan.is_free(float(x), 1.0):
                bike = bicycle(parts, rng, self.climate, self._next(), motor, False)
                y = at * (plan.road_half + plan.verge + 0.55)
                for k in range(int(rng.integers(1, 4))):
                    self.put(
                        bike,
                        x + 0.25 * k,
                        y + 0.6 * k * at * 0.5,
                        KERB,
                        rng.uniform(0.9, 2.2) if k else rng.uniform(-0.4, 0.4),
                    )

    def _next(self) -> int:
        self.instances += 1
        return self.instances

    def traffic(self) -> None:
        """Parked and driving cars, and cyclists."""
        rng, plan, parts = self.rng, self.plan, self.scene.parts
        if plan.road_half > plan.lane_width + 1:
            for side in (-1, 1):
                x = rng.uniform(4, 12)
                while x < END * 0.8:
                    if plan.is_free(x, 4.0) and rng.uniform() < 0.68:
                        pieces = car(parts, rng, self.climate, False, self._next())
                        self.put(
                            pieces,
                            x,
                            side * (plan.road_half - 1.0),
                            0,
                            (np.pi if side > 0 else 0.0) + rng.normal(0, 0.02),
                        )
                    x += rng.uniform(5.2, 8.5)
        for start in rng.uniform([9, 26, 48, 70], [24, 45, 68, 100])[: int(rng.integers(1, 5))]:
            self._drive(
                car(parts, rng, self.climate, True, self._next()),
                start,
                plan.lane_width / 2,
                rng.uniform(3, 9),
                -1,
            )
        if rng.uniform() < 0.7:
            pace = self.speed + rng.uniform(-0.3, 1.0)
            self._drive(
                car(parts, rng, self.climate, True, self._next()),
                rng.uniform(10, 26),
                -plan.lane_width / 2,
                pace,
                1,
            )
        for _ in range(int(rng.integers(0, 3))):
            motor = bool(rng.uniform() < 0.4)
            side = int(rng.choice([-1, 1]))
            y, x = side * (plan.lane_width - 0.5), rng.uniform(7, 34)
            self._ride(x, y, rng.uniform(2.0, 4.5), 1 if side < 0 else -1, motor)

    def _path(
        self, start: float, y: float, speed: float, way: int
    ) -> Callable[[float], tuple[float, float, float]]:
        def at(time_s: float) -> tuple[float, float, float]:
            x = start + way * speed * time_s
            return (
                x,
                y + float(self.plan.shift(x)),
                self.plan.heading(x) + (0 if way > 0 else np.pi),
            )

        return at

    def _drive(self, pieces: Pieces, start: float, y: float, speed: float, way: int) -> None:
        path = self._path(start, y, speed, way)

        def mover(time_s: float) -> Pieces:
            x, side, heading = path(time_s)
            return placed(pieces, (x, side, 0.0), heading)

        def beam(time_s: float) -> list[Lamp]:
            x, side, heading = path(time_s)
            ahead = np.array([np.cos(heading), np.sin(heading), -0.06])
            place = np.array([x, side, 0.65]) + 2.3 * ahead * [1, 1, 0]
            colour = np.array([8.0, 7.6, 6.7], np.float32)
            return [
                Lamp(
                    place.astype(np.float32),
                    colour,
                    (ahead / np.linalg.norm(ahead)).astype(np.float32),
                    0.85,
                    22.0,
                )
            ]

        self.scene.movers.append(mover)
        if self.climate.lamps_on:
            self.scene.moving_lamps.append(beam)

    def _ride(self, start: float, y: float, speed: float, way: int, motor: bool) -> None:
        figure = draw_figure(self.scene.parts, self.rng, self.climate, self._next())
        bike = bicycle(self.scene.parts, self.rng, self.climate, self.instances, motor, True)
        path = self._path(start, y, speed, way)
        phase = self.rng.uniform(0, 6)

        def mover(time_s: float) -> Pieces:
            x, side, heading = path(time_s)
            body = figure.pieces(phase + (0 if motor else 5.5 * time_s), 0.0, seated=True)
            body = [(mesh.moved((-0.22, 0, 0.05)), part) for mesh, part in body]
            return placed(bike + body, (x, side, 0.0), heading)

        self.scene.movers.append(mover)

    def people(self) -> None:
        """Walkers on sidewalks and crossings, some close, and a few mannequins before shops."""
        rng, plan = self.rng, self.plan
        for i in range(int(rng.integers(6, 13))):
            x = rng.uniform(3.5, 16) if i < 4 else rng.uniform(8, 45)
            side, way = int(rng.choice([-1, 1])), int(rng.choice([-1, 1]))
            y = side * (plan.walk_inner + rng.uniform(0.3, plan.walk_width - 0.4))
            pace = 0.0 if rng.uniform() < 0.2 else rng.uniform(0.8, 1.6)
            self._walk(self._path(x, y, pace, way), pace, KERB)
        for _ in range(int(rng.integers(0, 4))):
            zebra = plan.zebras[int(rng.integers(len(plan.zebras)))] + 1.6
            x = zebra + rng.uniform(-1.2, 1.2) if rng.uniform() < 0.6 else rng.uniform(6, 24)
            start, way, pace = rng.uniform(-3, 3), int(rng.choice([-1, 1])), rng.uniform(0.7, 1.4)
            bend = float(plan.shift(x))

            def across(
                t: float,
                x: float = x,
                s: float = start,
                w: int = way,
                p: float = pace,
                b: float = bend,
            ) -> tuple[float, float, float]:
                reach = plan.walk_outer - 0.3
                y = s + w * p * t
                return x, float(np.clip(y, -reach, reach)) + b, w * np.pi / 2

            self._walk(across, pace, 0.0)
        for _ in range(int(rng.integers(0, 3))):
            figure = draw_figure(self.scene.parts, rng, self.climate, self._next(), alive=False)
            x, side = rng.uniform(5, 26), int(rng.choice([-1, 1]))
            self.put(
                figure.pieces(rng.uniform(0, 6), 0.3),
                x,
                side * (plan.walk_outer - 0.4),
                KERB,
                rng.uniform(0, 6),
            )

    def _walk(
        self, path: Callable[[float], tuple[float, float, float]], pace: float, z: float
    ) -> None:
        figure: Figure = draw_figure(self.scene.parts, self.rng, self.climate, self._next())
        phase, swing = self.rng.uniform(0, 6), min(1.0, pace / 1.3)

        def mover(time_s: float) -> Pieces:
            x, y, heading = path(time_s)
            inner = abs(y - float(self.plan.shift(x))) > self.plan.road_half
            body = figure.pieces(phase + 4.4 * pace * time_s, swing)
            return placed(body, (x, y, KERB + 0.03 if inner or z > 0 else 0.03), heading)

        self.scene.movers.append(mover)
