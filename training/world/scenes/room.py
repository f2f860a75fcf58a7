"""Random rooms with furniture and a person: living rooms, bedrooms, offices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segrgbx_core.labels.tables import NYU
from training.world.config import Light, WorldConfig
from training.world.rays.cameras import Camera, camera_axes
from training.world.scenes.scene import Lamp, Scene
from training.world.shapes import furniture
from training.world.shapes.geometry import block
from training.world.shapes.objects import Pieces, placed
from training.world.shapes.people import Crowd, draw_figure
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Colour, PartTable, Pattern
from training.world.surfaces.room_patterns import ROOM_PAINTERS

WALL_TONES: tuple[Colour, ...] = (
    (0.62, 0.60, 0.55), (0.55, 0.58, 0.60), (0.60, 0.50, 0.40), (0.45, 0.52, 0.44),
    (0.55, 0.42, 0.38),
)  # fmt: skip


def room_id(name: str) -> int:
    """Native id of a class of the NYU label space, which rooms use."""
    return NYU.names.index(name)


def room_scene(seed: int, config: WorldConfig) -> Scene:
    """The room of a seed."""
    rng = np.random.default_rng([seed, 23])
    wants_night = config.light in (Light.NIGHT, Light.DUSK)
    dark = wants_night or (config.light is Light.ANY and rng.uniform() < 0.4)
    size = (rng.uniform(4.4, 6.4), rng.uniform(3.4, 5.0), rng.uniform(2.45, 2.8))
    climate = _climate(rng, dark)
    scene = Scene(
        seed=seed,
        climate=climate,
        parts=PartTable(climate.air_kelvin),
        painters=ROOM_PAINTERS,
        sky_label=room_id("window"),
        pane_label=room_id("window"),
        label_space=NYU.name,
        camera=_camera(rng, size, config),
        is_indoor=True,
        meta={"time_of_day": "night" if dark else "day", "speed_mps": 0.0, "fog": 0.0},
    )
    maker = _RoomMaker(scene, rng, size, dark)
    maker.shell()
    maker.lights()
    maker.furnish()
    maker.person()
    return scene


def _climate(rng: np.random.Generator, dark: bool) -> Climate:
    """Light that walls throw back, air and warmth of a room; there is no sky in it."""
    tint = np.array([1.0, 0.94, 0.84]) if dark else np.array([0.96, 1.0, 1.04])
    glow = (0.085 if dark else 0.17) * rng.uniform(0.7, 1.2) * tint
    white = glow.astype(np.float32)
    return Climate(white, white, float(rng.uniform(292, 296)), lamps_on=dark)


def _camera(
    rng: np.random.Generator, size: tuple[float, float, float], config: WorldConfig
) -> Callable[[float], Camera]:
    length, width, _ = size
    side = rng.choice([-1, 1])
    start = np.array([0.35, side * rng.uniform(0.0, 0.36) * width, rng.uniform(1.2, 1.65)])
    target = np.array([0.75 * length, -side * rng.uniform(0, 0.25) * width, rng.uniform(0.6, 1.1)])
    pace = config.speed_mps if config.speed_mps >= 0 else float(rng.choice([0.0, 0.2, 0.35]))
    turn, phase = rng.uniform(0.05, 0.25), rng.uniform(0, 6)
    focal = config.width / 2 / np.tan(np.radians(config.field_of_view_deg) / 2)

    def camera(time_s: float) -> Camera:
        step = min(pace * time_s, 0.3 * length)
        place = start + np.array(
            [step, 0.06 * np.sin(0.9 * time_s + phase), 0.01 * np.sin(7 * time_s)]
        )
        forward = target - place
        heading = np.arctan2(forward[1], forward[0]) + turn * np.sin(0.5 * time_s + phase)
        tilt = np.arctan2(-forward[2], np.hypot(forward[0], forward[1]))
        axes = camera_axes(float(heading), float(tilt), 0.01 * float(np.sin(1.3 * time_s)))
        return Camera(config.width, config.height, float(focal), place.astype(np.float32), axes)

    return camera


class _RoomMaker:
    """Fills a room step by step; the order of steps is part of what a seed means."""

    def __init__(
        self, scene: Scene, rng: np.random.Generator, size: tuple[float, float, float], dark: bool
    ) -> None:
        self.scene, self.rng, self.dark = scene, rng, dark
        self.length, self.width, self.height = size
        self.kit = furniture.Kit(scene.parts, scene.climate, rng, room_id)
        self.window_side = int(rng.choice([-1, 1]))

    def shell(self) -> None:
        """Floor, ceiling, walls, skirting, window and door."""
        rng, kit = self.rng, self.kit
        long, half, high = self.length, self.width / 2, self.height
        wood = np.array([0.32, 0.20, 0.11]) * rng.uniform(0.6, 1.5)
        planks = rng.uniform() < 0.65
        wood = wood if planks else np.array([0.28, 0.26, 0.24])
        pattern, board = (Pattern.WOOD, 0.12) if planks else (Pattern.CARPET, 0.0)
        floor = kit.part("floor", wood, pattern, params=(board,), kelvin=-0.8)
        tone = np.array(WALL_TONES[int(rng.integers(len(WALL_TONES)))])
        wall, ceiling = (
            kit.part("wall", tone, kelvin=-1.0),
            kit.part("ceiling", (0.72, 0.71, 0.69)),
        )
        cold = kit.part("wall", tone, kelvin=-2.4)
        put = self.scene.statics
        put.append((block((-0.2, long + 0.2), (-half - 0.2, half + 0.2), (-0.1, 0.0)), floor))
        put.append(
            (block((-0.2, long + 0.2), (-half - 0.2, half + 0.2), (high, high + 0.1)), ceiling)
        )
        put.append((block((-0.2, 0.0), (-half, half), (0, high)), wall))
        put.append((block((long, long + 0.2), (-half, half), (0, high)), wall))
        for side in (-1, 1):
            outer = cold if side == self.window_side else wall
            span = sorted((side * half, side * (half + 0.2)))
            put.append((block((0, long), (span[0], span[1]), (0, high)), outer))
        self.window_x = rng.uniform(0.5, 0.72) * long
        bright = (
            (0.02, 0.02, 0.03)
            if self.dark
            else tuple(np.array([1.3, 1.45, 1.6]) * rng.uniform(0.6, 1.1))
        )
        put += furniture.window(
            kit, (self.window_x, self.window_side * half), self.window_side, bright
        )
        put += furniture.door(kit, long, rng.uniform(-0.3, 0.3) * self.width)

    def lights(self) -> None:
        """A lamp in the middle, often a floor lamp, and daylight through the window."""
        rng, lamps = self.rng, self.scene.lamps
        middle = (self.length * rng.uniform(0.4, 0.6), rng.uniform(-0.4, 0.4))
        on = self.dark or rng.uniform() < 0.35
        self.scene.statics += furniture.ceiling_lamp(self.kit, middle, self.height, on)
        warm = np.array([1.0, 0.86, 0.66], np.float32)
        if on:
            place = np.array([*middle, self.height - 0.55], np.float32)
            lamps.append(
                Lamp(place, warm * np.float32(1.7), np.array([0, 0, -1], np.float32), -0.6, 12.0)
            )
        if not self.dark:
            place = np.array(
                [self.window_x, self.window_side * (self.width / 2 - 0.12), 1.5], np.float32
            )
            inwards = np.array([0, -self.window_side, -0.15], np.float32)
            day = np.array([2.6, 2.9, 3.2], np.float32) * np.float32(rng.uniform(0.7, 1.3))
            lamps.append(Lamp(place, day, inwards / np.float32(1.01), 0.0, 12.0))

    def furnish(self) -> None:
        """Furniture of one kind of room along the walls, a table or rug in the middle."""
        rng, kit, half = self.rng, self.kit, self.width / 2
        kind = ("living", "bedroom", "office")[int(rng.integers(3))]
        self.scene.meta["room"] = kind
        for index, (side, x, width) in enumerate(self._places()):
            choices = furniture.ALONG_WALLS[kind]
            maker = choices[(index + int(rng.integers(len(choices)))) % len(choices)]
            pieces, depth = maker(kit, width)
            y = side * (half - depth / 2 - 0.03)
            self.scene.statics += placed(pieces, (x, y, 0.0), 0.0 if side > 0 else float(np.pi))
        for side in (-1, 1):
            if side != self.window_side:
                for x in rng.uniform(1.5, self.length - 0.7, 2):
                    self.scene.statics += furniture.picture(kit, (float(x), side * half), side)
        x, y = self.length * rng.uniform(0.5, 0.65), rng.uniform(-0.3, 0.3)
        self.scene.statics += placed(furniture.rug(kit), (x, y, 0.0))
        for pieces, offset, heading in furniture.middle(kit, kind):
            self.scene.statics += placed(pieces, (x + offset[0], y + offset[1], 0.0), heading)
        self.scene.statics += placed(
            furniture.clutter(kit), (self.length - 0.5, rng.choice([-1, 1]) * (half - 0.5), 0)
        )

    def _places(self) -> list[tuple[int, float, float]]:
        """Free stretches along the long walls: side, centre and width."""
        places = []
        for side in (-1, 1):
            x = self.rng.uniform(1.2, 1.6)
            while x < self.length - 1.0:
                width = min(float(self.rng.uniform(1.1, 2.0)), self.length - 0.25 - x)
                places.append((side, x + width / 2, width))
                x += width + self.rng.uniform(0.1, 0.4)
        return places

    def person(self) -> None:
        """Somebody who walks to and fro, or stands."""
        if self.rng.uniform() < 0.2:
            return
        figure = draw_figure(
            self.scene.parts,
            self.rng,
            self.scene.climate,
            self.scene.parts.next_instance(),
            label=room_id("person"),
        )
        x, reach = self.length * self.rng.uniform(0.78, 0.88), self.width / 2 - 0.9
        pace, phase = float(self.rng.choice([0.0, 0.6, 0.9])), self.rng.uniform(0, 6)
        crowd, swing = Crowd([figure]), np.array([min(1.0, pace / 1.3)])

        def mover(time_s: float) -> Pieces:
            # A triangle wave between the walls.
            path = (pace * time_s + phase) % (4 * reach)
            forth = path < 2 * reach
            y = path - reach if forth else 3 * reach - path
            heading = float(np.pi / 2 if forth else -np.pi / 2)
            stride = np.array([phase + 4.4 * pace * time_s])
            return crowd.pieces(stride, swing, np.array([[x, y, 0.03]]), [heading])

        self.scene.movers.append(mover)
