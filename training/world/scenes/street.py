"""Random streets: houses, trees, furniture, traffic and people along a two-lane road."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from segrgbx_core.labels.tables import SYNTHETIC_STREET
from training.world.config import Light, Variation, WorldConfig, variation_rng
from training.world.rays.cameras import Camera, camera_axes
from training.world.scenes.clutter import Clutter
from training.world.scenes.scene import Lamp, Scene
from training.world.scenes.street_houses import Houses
from training.world.scenes.street_layout import Mount, StreetLayout, draw_layout, draw_mount
from training.world.scenes.street_traffic import KERB, Traffic
from training.world.shapes.geometry import block, sheet
from training.world.shapes.objects import (
    Pieces,
    bare_tree,
    bin_box,
    bush,
    placed,
    shelter,
    street_lamp,
    traffic_light,
    traffic_sign,
    tree,
)
from training.world.shapes.vehicles import bicycle
from training.world.surfaces.climate import Climate, TimeOfDay, draw_climate, vary_sky
from training.world.surfaces.materials import Colour, PartTable, Pattern, street_id
from training.world.surfaces.street_patterns import street_painters
from training.world.surfaces.street_plan import StreetPlan, draw_plan, vary_plan

END = 112.0


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
    layout, mount = StreetLayout(), None
    if config.varies(Variation.SKY):
        climate = vary_sky(climate, variation_rng(seed, Variation.SKY))
    if config.varies(Variation.LAYOUT):
        varied = variation_rng(seed, Variation.LAYOUT)
        plan, layout = vary_plan(plan, varied), draw_layout(varied)
    if config.varies(Variation.CAMERA):
        mount = draw_mount(variation_rng(seed, Variation.CAMERA))
    camera = _camera(rng, plan, config, speed, mount)
    maker = _StreetMaker(seed, rng, plan, layout, climate, camera, speed)
    maker.ground()
    Houses(maker.scene, plan, layout, rng).rows()
    maker.greenery()
    maker.furniture()
    if config.varies(Variation.CLUTTER):
        Clutter(maker.scene, plan, variation_rng(seed, Variation.CLUTTER)).add()
    traffic = Traffic(maker.scene, plan, layout, rng, speed)
    traffic.parked()
    traffic.car_park()
    traffic.moving()
    traffic.people()
    return maker.scene


def _camera(
    rng: np.random.Generator,
    plan: StreetPlan,
    config: WorldConfig,
    speed: float,
    mount: Mount | None,
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
    phase, roll, view_deg = rng.uniform(0, 6, 3), 0.0, config.field_of_view_deg
    if mount is not None:
        side = side if on_walk else -plan.lane_width * mount.offset
        height, tilt, turn = mount.height, mount.tilt, turn * 0.5 + mount.turn
        roll, view_deg = mount.roll, mount.field_of_view_deg
    focal = config.width / 2 / np.tan(np.radians(view_deg) / 2)

    def camera(time_s: float) -> Camera:
        x = start + speed * time_s
        shake = (
            sway * np.sin(np.array([1.9, 2.7, 1.4]) * time_s + phase) * min(1.0, speed / 3 + 0.15)
        )
        position = np.array([x, side + plan.shift(x), height + 2 * shake[0]], np.float32)
        heading = plan.heading(x + 8) + turn + shake[1]
        axes = camera_axes(heading, tilt + shake[0], roll + shake[2])
        return Camera(config.width, config.height, float(focal), position, axes)

    return camera


def _span(side: int, inner: float, outer: float) -> tuple[float, float]:
    """A strip along the street as an interval of y, left (1) or right (-1) of its centre."""
    return (side * inner, side * outer) if side > 0 else (side * outer, side * inner)


class _StreetMaker:
    """Fills a scene step by step; the order of steps is part of what a seed means."""

    def __init__(
        self,
        seed: int,
        rng: np.random.Generator,
        plan: StreetPlan,
        layout: StreetLayout,
        climate: Climate,
        camera: Callable[[float], Camera],
        speed: float,
    ) -> None:
        self.rng, self.plan, self.layout, self.climate = rng, plan, layout, climate
        self.camera = camera
        self.scene = Scene(
            seed=seed,
            climate=climate,
            parts=PartTable(climate.air_kelvin),
            painters=street_painters(plan, climate, layout.shop_signs),
            sky_label=street_id("sky"),
            pane_label=street_id("glass"),
            label_space=SYNTHETIC_STREET.name,
            camera=self.camera,
            bend=plan.shift if plan.bend else None,
            meta={
                "time_of_day": climate.time_of_day.value,
                "speed_mps": speed,
                "fog": climate.fog,
                "wetness": climate.wetness,
            },
        )
        on_walk = abs(float(self.camera(0.0).position[1])) > plan.road_half
        self.beam = np.float32(0.3 if on_walk else 1.0)
        if climate.lamps_on:
            self.scene.moving_lamps.append(self._head_lamps)

    def part(
        self, name: str, colour: Colour, pattern: Pattern = Pattern.PLAIN, **properties: float
    ) -> int:
        """A surface of a named class, at air temperature unless another is given."""
        return self.scene.parts.surface(street_id(name), colour, pattern, **properties)

    def put(
        self, pieces: Pieces, x: float, y: float, z: float = 0.0, heading: float = 0.0
    ) -> None:
        """Stands pieces beside the straight street; bending happens later."""
        self.scene.statics += placed(pieces, (x, y, z), heading)

    def _head_lamps(self, time_s: float) -> list[Lamp]:
        eye = self.camera(time_s)
        forward = eye.axes[2] * [1, 1, 0] + [0, 0, -0.045]
        place = (eye.position + 1.2 * eye.axes[2]) * [1, 1, 0] + [0, 0, 0.7]
        return [
            Lamp(place.astype(np.float32), np.array([14.0, 13.2, 11.8], np.float32) * self.beam,
                 (forward / np.linalg.norm(forward)).astype(np.float32), 0.5, 45.0)
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
            for a, b in pairwise([*np.arange(left, right, 6.0), right]):
                for side in (-1, 1):
                    kerb_span = _span(side, half, half + 0.16)
                    put.append((block((a, b), kerb_span, (-0.1, KERB)), kerb))
                    if plan.verge:
                        verge = _span(side, half + 0.16, plan.walk_inner)
                        put.append((sheet((a, b), verge, KERB - 0.01), grass))
                    slabs = _span(side, max(plan.walk_inner, half + 0.16), plan.walk_outer)
                    put.append((sheet((a, b), slabs, KERB), walk))
                    garden = _span(side, plan.walk_outer, 45.0)
                    put.append((sheet((a, b), garden, KERB - 0.03), grass))
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

    def greenery(self) -> None:
        """Street trees on verges or in gardens, bushes, and woods behind everything."""
        rng, plan, layout = self.rng, self.plan, self.layout
        low, high = layout.tree_size
        near = [self._tree(rng.uniform(low, high), layout.leaf_patches) for _ in range(4)]
        far = [self._tree(rng.uniform(1, max(high, 1.5)), 36) for _ in range(3)]
        for side in (-1, 1):
            if rng.uniform() < 1 - layout.row_share:
                continue
            spacing = rng.uniform(*layout.tree_spacing)
            line = plan.road_half + 0.7 if plan.verge else plan.walk_outer - 0.35
            for x in np.arange(rng.uniform(2, 10), END - 10, spacing):
                if plan.is_free(float(x)):
                    model = (near if x < 60 else far)[int(rng.integers(3))]
                    place = (x + rng.uniform(-1, 1), side * line)
                    self.put(model, *place, KERB, rng.uniform(0, 6))
        nearest = plan.walk_outer + layout.green_from
        for _ in range(layout.bushes):
            x, y = rng.uniform(0, 190), rng.uniform(nearest, 30) * rng.choice([-1, 1])
            self.put(far[int(rng.integers(3))], x, y, 0.0, rng.uniform(0, 6))
        for y in range(-44, 45, 8):
            x = 205 + rng.uniform(0, 20)
            self.put(far[int(rng.integers(3))], x, y, 0.0, rng.uniform(0, 6))
        for side, is_open in zip((-1, 1), layout.open_sides, strict=True):
            if is_open:
                self._woods(side, far)

    def _tree(self, size: float, patches: int) -> Pieces:
        bare = self.layout.bare_share > 0 and self.rng.uniform() < self.layout.bare_share
        if bare:
            return bare_tree(self.scene.parts, self.rng, self.climate, size)
        return tree(self.scene.parts, self.rng, self.climate, size, patches)

    def _woods(self, side: int, trees: list[Pieces]) -> None:
        """Trees and bushes in place of a row of houses."""
        rng, parts = self.rng, self.scene.parts
        bushes = [bush(parts, rng, self.climate) for _ in range(4)]
        edge = self.plan.walk_outer + (24.0 if self.layout.has_car_park else 1.0)
        for x in np.arange(-5, 130, rng.uniform(3, 8)):
            model = bushes[int(rng.integers(4))] if rng.uniform() < 0.6 else trees[0]
            y = side * (edge + rng.uniform(0, 6))
            if self.plan.is_free(float(x)):
                self.put(model, x, y, 0.0, rng.uniform(0, 6))
        for x in np.arange(-5, 160, rng.uniform(5, 9)):
            y = side * (edge + rng.uniform(8, 30))
            self.put(trees[int(rng.integers(3))], x, y, 0.0, rng.uniform(0, 6))

    def furniture(self) -> None:
        """Lamps, signs, lights, bins, shelters and parked bicycles."""
        rng, plan, parts = self.rng, self.plan, self.scene.parts
        lamp_side = int(rng.choice([-1, 1]))
        height, spacing = rng.uniform(4.6, 6.0), rng.uniform(14, 22)
        lamp, place = street_lamp(parts, self.climate, height, 0.9)
        colour = np.array(
            [[7.5, 5.0, 2.6], [7.0, 6.2, 5.0]][int(rng.integers(2))], np.float32
        ) * rng.uniform(0.7, 1.3)
        for i, x in enumerate(np.arange(rng.uniform(-6, 9), END, spacing)):
            side = lamp_side if i % 2 == 0 or height < 5.2 else -lamp_side
            y = side * (plan.road_half + 0.35)
            if not plan.is_free(float(x), 0.5):
                continue
            heading = 0.0 if side < 0 else np.pi
            self.put(lamp, x, y, KERB, heading)
            bulb = np.array([x, y - side * place[1] + plan.shift(x), KERB + place[2]], np.float32)
            if self.climate.lamps_on and rng.uniform() < 0.92:
                down = np.array([0, 0, -1], np.float32)
                self.scene.lamps.append(Lamp(bulb, colour * np.float32(1.5), down, 0.05, 19.0))
        for x in np.cumsum(rng.uniform(5, 15, self.layout.signs)) + 2:
            side = int(rng.choice([-1, -1, 1]))
            if plan.is_free(float(x), 0.6):
                y = side * (plan.road_half + rng.uniform(0.3, 0.6))
                pieces = traffic_sign(
                    parts, rng, self.climate, (float(x), float(y + plan.shift(x)), KERB)
                )
                self.scene.statics += [
                    (mesh.moved((0, -float(plan.shift(x)), 0)), part) for mesh, part in pieces
                ]
        if plan.crossings or rng.uniform() < 0.3:
            green = bool(rng.uniform() < 0.5)
            for start in plan.zebras:
                for side in (-1, 1):
                    self.put(
                        traffic_light(parts, self.climate, green),
                        start - 0.6,
                        side * (plan.road_half + 0.4),
                        KERB,
                    )
        self._small_things()

    def _small_things(self) -> None:
        rng, plan, parts = self.rng, self.plan, self.scene.parts
        for x in rng.uniform(4, 60, self.layout.small_things):
            side = int(rng.choice([-1, 1]))
            if plan.is_free(float(x), 0.5):
                self.put(
                    bin_box(parts, rng, self.climate), x, side * (plan.walk_outer - 0.5), KERB
                )
        for x in rng.uniform(5, 45, int(rng.integers(1, 3))):
            side = int(rng.choice([-1, 1]))
            if plan.is_free(float(x), 3.5):
                pieces, panes = shelter(parts, self.climate)
                y, heading = side * (plan.walk_outer - 0.9), 0.0 if side > 0 else np.pi
                self.put(pieces, x, y, KERB, heading)
                self.scene.panes += placed(panes, (x, y, KERB), heading)
        for x in rng.uniform(3, 40, int(rng.integers(2, 6))):
            side = int(rng.choice([-1, 1]))
            motor = bool(rng.uniform() < 0.5)
            if plan.is_free(float(x), 1.0):
                bike = bicycle(parts, rng, self.climate, parts.next_instance(), motor, False)
                y = side * (plan.road_half + plan.verge + 0.55)
                for k in range(int(rng.integers(1, 4))):
                    self.put(
                        bike,
                        x + 0.25 * k,
                        y + 0.6 * k * side * 0.5,
                        KERB,
                        rng.uniform(0.9, 2.2) if k else rng.uniform(-0.4, 0.4),
                    )
