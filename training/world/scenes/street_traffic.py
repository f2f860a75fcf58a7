"""Cars, cyclists and people of a street, as functions of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.scenes.scene import Lamp, Scene
from training.world.scenes.street_layout import StreetLayout
from training.world.shapes.objects import Pieces, placed
from training.world.shapes.people import Crowd, Figure, draw_figure
from training.world.shapes.vehicles import bicycle, car
from training.world.surfaces.street_plan import StreetPlan

KERB = 0.12
Path = Callable[[float], tuple[float, float, float]]
"""Place x, y and heading at a time in seconds."""
PARKED_END = 90.0
PASSING_GAP = 1.3
"""Sideways distance that walkers keep from the camera, metres."""


def along(plan: StreetPlan, start: float, y: float, speed: float, sign: int) -> Path:
    """A path that follows the street `y` metres beside its centre, in the direction of `sign`."""

    def path(time_s: float) -> tuple[float, float, float]:
        x = start + sign * speed * time_s
        turn = 0.0 if sign > 0 else float(np.pi)
        return x, y + float(plan.shift(x)), plan.heading(x) + turn

    return path


def across(plan: StreetPlan, x: float, start: float, speed: float, sign: int) -> Path:
    """A path over the carriageway that ends on the sidewalk."""
    bend, reach = float(plan.shift(x)), plan.walk_outer - 0.3

    def path(time_s: float) -> tuple[float, float, float]:
        y = float(np.clip(start + sign * speed * time_s, -reach, reach))
        return x, y + bend, sign * float(np.pi) / 2

    return path


@dataclass(frozen=True)
class _Walker:
    """Somebody on foot.

    Attributes:
        figure: looks.
        path: place and heading by time.
        pace: m/s.
        phase: of the stride at time 0, rad.
    """

    figure: Figure
    path: Path
    pace: float
    phase: float


class Traffic:
    """Adds vehicles and people to a scene, out of the camera's way.

    Args:
        scene: with its camera.
        plan: of the street.
        layout: how much there is.
        rng: draws what there is.
        speed: of the camera, m/s.
    """

    def __init__(
        self,
        scene: Scene,
        plan: StreetPlan,
        layout: StreetLayout,
        rng: np.random.Generator,
        speed: float,
    ) -> None:
        self.scene, self.plan, self.layout, self.rng, self.speed = scene, plan, layout, rng, speed
        self.climate, self.parts = scene.climate, scene.parts
        eye = scene.camera(0.0).position
        self._walkers: list[_Walker] = []
        self.eye_x = float(eye[0])
        self.eye_y = float(eye[1] - plan.shift(float(eye[0])))

    def parked(self) -> None:
        """Rows of parked cars, where there are parking strips."""
        rng, plan = self.rng, self.plan
        if plan.road_half <= plan.lanes * plan.lane_width + 1:
            return
        for side in (-1, 1):
            x = rng.uniform(4, 12)
            while x < PARKED_END:
                if plan.is_free(x, 4.0) and rng.uniform() < self.layout.parked_share:
                    pieces = self._car(running=False)
                    heading = (np.pi if side > 0 else 0.0) + rng.normal(0, 0.02)
                    place = (x, side * (plan.road_half - 1.0), 0.0)
                    self.scene.statics += placed(pieces, place, heading)
                x += rng.uniform(*self.layout.parked_gap)

    def car_park(self) -> None:
        """Rows of parked cars beside the street, where no houses stand."""
        rng, plan = self.rng, self.plan
        for side, is_open in zip((-1, 1), self.layout.open_sides, strict=True):
            if not (is_open and self.layout.has_car_park):
                continue
            start, rows = plan.walk_outer + rng.uniform(2, 5), int(rng.integers(1, 4))
            for row in range(rows):
                y, heading = side * (start + 2.5 + 9 * row), rng.choice([-1, 1]) * np.pi / 2
                for x in np.arange(rng.uniform(3, 8), rng.uniform(20, 60), 2.7):
                    if plan.is_free(float(x), 2.0) and rng.uniform() < self.layout.parked_share:
                        pieces = placed(self._car(running=False), (x, y, KERB), heading)
                        self.scene.statics += pieces

    def moving(self) -> None:
        """Oncoming cars, often one ahead, and cyclists."""
        rng, plan = self.rng, self.plan
        pace = rng.uniform(3, 9)
        for start in rng.uniform([9, 26, 48, 70], [20, 42, 64, 100])[: int(rng.integers(1, 5))]:
            self._drive(start, self._lane(), pace, -1)
        if rng.uniform() < 0.7:
            ahead = self.speed + rng.uniform(-0.3, 1.0)
            self._drive(rng.uniform(10, 26), -plan.lane_width / 2, ahead, 1)
            if plan.lanes > 1:
                self._drive(rng.uniform(4, 40), -1.5 * plan.lane_width, ahead, 1)
        for _ in range(int(rng.integers(0, 3))):
            motor = bool(rng.uniform() < 0.4)
            side = int(rng.choice([-1, 1]))
            y, x = side * (plan.lane_width - 0.5), rng.uniform(7, 34)
            self._ride(along(plan, x, y, rng.uniform(2.0, 4.5), 1 if side < 0 else -1), motor)

    def people(self) -> None:
        """Walkers on sidewalks and crossings, some close, and a few mannequins."""
        rng, plan = self.rng, self.plan
        for i in range(int(rng.integers(*self.layout.walkers))):
            x = rng.uniform(3.5, 16) if i < 4 else rng.uniform(8, 55)
            side, sign = int(rng.choice([-1, 1])), int(rng.choice([-1, 1]))
            y = side * (plan.walk_inner + rng.uniform(0.3, plan.walk_width - 0.4))
            pace = 0.0 if rng.uniform() < 0.2 else rng.uniform(0.8, 1.6)
            self._walk(along(plan, x, self._beside(y), pace, sign), pace)
        for _ in range(int(rng.integers(0, 4))):
            zebra = plan.zebras[int(rng.integers(len(plan.zebras)))] + 1.6
            x = zebra + rng.uniform(-1.2, 1.2) if rng.uniform() < 0.6 else rng.uniform(6, 24)
            sign, pace = int(rng.choice([-1, 1])), rng.uniform(0.7, 1.4)
            self._walk(across(plan, x, self._start(x, pace, sign), pace, sign), pace)
        self._walking()
        for _ in range(int(rng.integers(0, 3))):
            figure = self._figure(alive=False)
            x, side = rng.uniform(5, 26), int(rng.choice([-1, 1]))
            place = (x, self._beside(side * (plan.walk_outer - 0.4)), KERB)
            body = figure.pieces(rng.uniform(0, 6), 0.3)
            self.scene.statics += placed(body, place, rng.uniform(0, 6))

    def _beside(self, y: float) -> float:
        """`y`, moved aside where the camera would walk into it."""
        gap = y - self.eye_y
        if abs(gap) >= PASSING_GAP:
            return y
        return self.eye_y + (PASSING_GAP if gap > 0 or self.eye_y > 0 else -PASSING_GAP)

    def _start(self, x: float, pace: float, sign: int) -> float:
        """Where a walker starts to cross at `x` so as not to meet the camera there."""
        start = self.rng.uniform(-3, 3)
        if self.speed < 0.3:
            return start
        meet = start + sign * pace * (x - self.eye_x) / self.speed
        if abs(meet - self.eye_y) < 1.6:
            start += sign * 3.2
        return start

    def _figure(self, alive: bool = True) -> Figure:
        instance = self.parts.next_instance()
        return draw_figure(self.parts, self.rng, self.climate, instance, alive)

    def _lane(self) -> float:
        """Middle of an oncoming lane."""
        lane = self.rng.integers(self.plan.lanes) if self.plan.lanes > 1 else 0
        return float((lane + 0.5) * self.plan.lane_width)

    def _car(self, running: bool) -> Pieces:
        is_van = self.layout.vans > 0 and bool(self.rng.uniform() < self.layout.vans)
        instance = self.parts.next_instance()
        return car(self.parts, self.rng, self.climate, running, instance, is_van)

    def _drive(self, start: float, y: float, speed: float, sign: int) -> None:
        pieces = self._car(running=True)
        path = along(self.plan, start, y, speed, sign)

        def mover(time_s: float) -> Pieces:
            x, side, heading = path(time_s)
            return placed(pieces, (x, side, 0.0), heading)

        def beam(time_s: float) -> list[Lamp]:
            x, side, heading = path(time_s)
            ahead = np.array([np.cos(heading), np.sin(heading), -0.06])
            place = np.array([x, side, 0.65]) + 2.3 * ahead * [1, 1, 0]
            direction = (ahead / np.linalg.norm(ahead)).astype(np.float32)
            colour = np.array([8.0, 7.6, 6.7], np.float32)
            return [Lamp(place.astype(np.float32), colour, direction, 0.8, 22.0)]

        self.scene.movers.append(mover)
        if self.climate.lamps_on:
            self.scene.moving_lamps.append(beam)

    def _ride(self, path: Path, motor: bool) -> None:
        figure = self._figure()
        instance = self.parts.next_instance()
        bike = bicycle(self.parts, self.rng, self.climate, instance, motor, True)
        phase = self.rng.uniform(0, 6)
        rider, swing = Crowd([figure], seated=True), np.zeros(1)

        def mover(time_s: float) -> Pieces:
            x, side, heading = path(time_s)
            pedals = np.array([phase + (0 if motor else 5.5 * time_s)])
            place = np.array([[x, side, 0.0]])
            body = rider.pieces(pedals, swing, place, [heading])
            return placed(bike, place[0], heading) + body

        self.scene.movers.append(mover)

    def _walk(self, path: Path, pace: float) -> None:
        figure, phase = self._figure(), self.rng.uniform(0, 6)
        self._walkers.append(_Walker(figure, path, pace, phase))

    def _walking(self) -> None:
        """Adds all walkers as one mover."""
        walkers, plan = self._walkers, self.plan
        if not walkers:
            return
        crowd = Crowd([walker.figure for walker in walkers])
        paces = np.array([walker.pace for walker in walkers])
        phases = np.array([walker.phase for walker in walkers])
        swings = np.minimum(1.0, paces / 1.3)

        def mover(time_s: float) -> Pieces:
            places, headings = np.empty((len(walkers), 3)), []
            for place, walker in zip(places, walkers, strict=True):
                x, y, heading = walker.path(time_s)
                on_walk = abs(y - float(plan.shift(x))) > plan.road_half
                place[:] = x, y, KERB + 0.03 if on_walk else 0.03
                headings.append(heading)
            return crowd.pieces(phases + 4.4 * paces * time_s, swings, places, headings)

        self.scene.movers.append(mover)
