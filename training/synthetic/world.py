"""Records of scenes: the door through which training, tests and recordings get their data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.modality import Modality
from training.synthetic.cameras import Camera
from training.synthetic.materials import street_id
from training.synthetic.records import Record, WorldConfig
from training.synthetic.scene import Scene, Stage
from training.synthetic.scene_street import street_scene
from training.synthetic.sensors.rgb import meter, photograph
from training.synthetic.sensors.thermal import apparent_kelvin, sun_on, thermograph
from training.synthetic.shading import Light, Seen, Shader

Floats = NDArray[np.float32]
Sensors = frozenset[Modality]


class World:
    """One scene with its cameras; renders any moment of it."""

    def __init__(self, seed: int, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self.seed = seed
        self.scene: Scene = street_scene(seed, self.config)
        self.stage = Stage(self.scene)
        self.shader = Shader(self.stage)

    def record(
        self, time_s: float, sensors: Iterable[Modality | str] = (Modality.THERMAL,)
    ) -> Record:
        """Everything that the named sensors deliver at a moment, with RGB and labels."""
        wanted = frozenset(Modality(name) for name in sensors)
        self.stage.set_time(time_s)
        camera = self.scene.camera(time_s)
        seen, light = self._look(camera)
        radiance, labels = self._radiance(camera, seen, light)
        exposure = meter(radiance)
        stamp_ns = round(time_s * 1e9)
        rgb = photograph(radiance, exposure, self._rng(stamp_ns, 0))
        extra: dict[str, Any] = {}
        x_time = time_s + self.config.x_delay_ms * 1e-3
        if Modality.THERMAL in wanted:
            extra["thermal"] = self._thermal(x_time, camera, seen, light)
        meta = dict(self.scene.meta, exposure=exposure.gain)
        return Record(self.seed, stamp_ns, rgb, labels, meta, round(x_time * 1e9), **extra)

    def _rng(self, stamp_ns: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stamp_ns % (1 << 62), stream])

    def _look(self, camera: Camera, panes: bool = False) -> tuple[Seen, Light]:
        seen = self._see(camera, panes)
        return seen, self.shader.light(seen)

    def _see(self, camera: Camera, panes: bool = False) -> Seen:
        ways = camera.rays()
        origins = np.ascontiguousarray(np.broadcast_to(camera.position, ways.shape))
        return self.shader.see(origins, ways, camera.focal, camera.width, panes)

    def _radiance(
        self, camera: Camera, seen: Seen, light: Light
    ) -> tuple[Floats, NDArray[np.uint8]]:
        labels = np.full(len(seen.directions), self.scene.sky_label, np.uint8)
        labels[seen.at] = seen.surface.label
        total = light.total
        at, share, incoming, _ = self.shader.behind_panes(seen)
        if len(at):
            mean = share.mean(axis=1, keepdims=True)
            total[at] = total[at] * (1 - mean) * np.float32(0.92) + incoming * mean
            labels[at] = street_id("glass")
        size = (camera.height, camera.width)
        return total.reshape(*size, 3), labels.reshape(size)

    def _x_camera(self, camera: Camera) -> Camera:
        config = self.config
        turned = camera.rolled(np.radians(config.x_turn_deg)) if config.x_turn_deg else camera
        moved = turned.shifted(config.x_shift_m) if config.x_shift_m else turned
        return moved.resized(config.x_scale) if config.x_scale != 1 else moved

    def _thermal(
        self, time_s: float, camera: Camera, seen: Seen, light: Light
    ) -> NDArray[np.uint16]:
        self.stage.set_time(time_s)
        camera = self._x_camera(self.scene.camera(time_s))
        del seen, light
        heat_seen = self._see(camera, panes=True)
        kelvin = apparent_kelvin(self.shader, heat_seen, sun_on(self.shader, heat_seen))
        stamp_ns = round(time_s * 1e9)
        image = kelvin.reshape(camera.height, camera.width)
        return thermograph(image, self._rng(stamp_ns, 1), self._rng(0, 2))


@lru_cache(maxsize=1)
def _world(seed: int, config: WorldConfig) -> World:
    return World(seed, config)


def render_record(
    seed: int,
    time_s: float = 0.0,
    sensors: Iterable[Modality | str] = (Modality.THERMAL,),
    config: WorldConfig | None = None,
) -> Record:
    """One moment of one scene; the scene last used is kept."""
    return _world(seed, config or WorldConfig()).record(time_s, sensors)


def render_sequence(
    seed: int,
    times_s: Sequence[float],
    sensors: Iterable[Modality | str] = (Modality.THERMAL,),
    config: WorldConfig | None = None,
) -> Iterator[Record]:
    """Moments of one scene, whose standing parts are prepared once."""
    world = World(seed, config)
    wanted = frozenset(Modality(name) for name in sensors)
    for time_s in times_s:
        yield world.record(time_s, wanted)
