"""The renderer's public API: a scene of a seed, and records of its moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Events
from training.world.config import Corruption, Family, Variation, WorldConfig, variation_rng
from training.world.rays.cameras import Camera
from training.world.rays.vectors import Floats
from training.world.records import LIDAR, NIR, Record
from training.world.scenes.room import room_scene
from training.world.scenes.scene import Scene
from training.world.scenes.street import street_scene
from training.world.sensors import depth, event, lidar, nir, polarization, thermal
from training.world.sensors.rgb import (
    PLAIN_READOUT,
    PLAIN_RESPONSE,
    Exposure,
    draw_readout,
    draw_response,
    meter,
    photograph,
)
from training.world.shading.shader import (
    FULL,
    QUICK,
    Quality,
    Shader,
    View,
    see_through,
    view_through,
)
from training.world.shading.stage import Stage
from training.world.surfaces.variation import draw_textures, vary_parts

Drawn = TypeVar("Drawn")
_OVER, _UNDER, _BLUR_MS, _BLUR_STEPS = (4.0, 9.0), (0.04, 0.12), 45.0, 5
_STREAMS = {
    "rgb": 0,
    "thermal": 1,
    "thermal_columns": 2,
    "depth": 3,
    "event": 4,
    "polarization": 5,
    "light_field": 6,
    "lidar": 7,
    "nir": 8,
}


class World:
    """One scene with its cameras; renders any moment of it."""

    def __init__(self, seed: int, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self.seed = seed
        make = room_scene if self.config.family is Family.INDOOR else street_scene
        self.scene: Scene = make(seed, self.config)
        if self.config.varies(Variation.SURFACES):
            self._vary_surfaces()
        self.stage = Stage(self.scene)
        self.shader = Shader(self.stage)
        self.corruption = self._draw_corruption()
        self._response = self._varied(Variation.RESPONSE, draw_response, PLAIN_RESPONSE)
        self._readout = self._varied(Variation.READOUT, draw_readout, PLAIN_READOUT)
        self._gain = self._varied(Variation.THERMAL, thermal.draw_gain_control, None)
        self._rig = self._varied(Variation.DEPTH, depth.draw_rig, depth.RIG)
        self._event_camera = self._varied(Variation.EVENT, event.draw_camera, event.CAMERA)

    def record(
        self,
        time_s: float,
        sensors: Iterable[Modality | str] = (Modality.THERMAL,),
        x_delay_s: float | None = None,
    ) -> Record:
        """Everything that the named sensors deliver at a moment, with RGB and labels.

        Args:
            time_s: moment of the RGB exposure.
            sensors: X modalities.
            x_delay_s: how much later X exposes; None for the world's option.
        """
        wanted = frozenset(Modality(name) for name in sensors)
        view = self.view(time_s, self.scene.camera(time_s))
        exposure = self._exposure(view)
        stamp_ns = round(time_s * 1e9)
        picture = self._exposed(view, self.scene.camera)
        rgb = self._photograph(picture, exposure, self._rng(stamp_ns, "rgb"))
        delay_s = self.config.x_delay_ms * 1e-3 if x_delay_s is None else x_delay_s
        x_time = time_s + delay_s
        x_arrays = self._x(x_time, view, exposure, wanted)
        meta = dict(self.scene.meta, exposure=exposure.gain, corruption=self.corruption.value)
        return Record(
            seed=self.seed,
            stamp_ns=stamp_ns,
            rgb=rgb,
            labels=self.labels(view),
            label_space=self.scene.label_space,
            meta=meta,
            x_stamp_ns=round(x_time * 1e9),
            **x_arrays,
        )

    def view(self, time_s: float, camera: Camera, quality: Quality = FULL) -> View:
        """The view of a camera at a moment."""
        return view_through(self.shader, camera, time_s, quality)

    def labels(self, view: View) -> NDArray[np.uint8]:
        """Native ids (H, W) of a view; a glass pane wins over what is behind it."""
        seen = view.seen
        labels = np.full(len(seen.directions), self.scene.sky_label, np.uint8)
        labels[seen.rays] = seen.surface.label
        labels[view.panes.rays] = self.scene.pane_label
        return labels.reshape(view.camera.height, view.camera.width)

    def x_camera(self, time_s: float) -> Camera:
        """The X cameras' common pose and grid at a moment."""
        config, camera = self.config, self.scene.camera(time_s)
        if config.x_turn_deg:
            camera = camera.rolled(np.radians(config.x_turn_deg))
        if config.x_shift_m:
            camera = camera.shifted(config.x_shift_m)
        return camera.resized(config.x_scale) if config.x_scale != 1 else camera

    def _vary_surfaces(self) -> None:
        scene = self.scene
        rng = variation_rng(self.seed, Variation.SURFACES)
        vary_parts(scene.parts, rng)
        still = {part for _, part in scene.statics if isinstance(part, int)}
        scene.texture = draw_textures(len(scene.parts.parts), still, rng)

    def _varied(
        self, kind: Variation, draw: Callable[[np.random.Generator], Drawn], usual: Drawn
    ) -> Drawn:
        """What a kind of variation draws for this scene, or what is usual without it."""
        rng = variation_rng(self.seed, kind)
        return draw(rng) if self.config.varies(kind) else usual

    def _draw_corruption(self) -> Corruption:
        if self.config.corruption is not Corruption.ANY:
            return self.config.corruption
        kinds = [kind for kind in Corruption if kind is not Corruption.ANY]
        shares = [0.5, 0.13, 0.13, 0.14, 0.1]
        rng = np.random.default_rng([self.seed, 29])
        return kinds[int(rng.choice(len(kinds), p=shares))]

    def _exposure(self, view: View) -> Exposure:
        metered = meter(view.radiance)
        rng = np.random.default_rng([self.seed, 31])
        over, under = float(rng.uniform(*_OVER)), float(rng.uniform(*_UNDER))
        factor = self.config.exposure
        if self.corruption is Corruption.OVER_EXPOSURE:
            factor *= over
        elif self.corruption is Corruption.UNDER_EXPOSURE:
            factor *= under
        return Exposure(metered.gain, factor)

    def _photograph(
        self, radiance: Floats, exposure: Exposure, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        return photograph(radiance, exposure, rng, self._response, self._readout)

    def _exposed(self, view: View, camera_at: Callable[[float], Camera]) -> Floats:
        """Radiance of a view; with motion blur, of a long exposure about it on a shaking mount.

        Args:
            view: the moment.
            camera_at: where the camera is at other moments.
        """
        if self.corruption is not Corruption.MOTION_BLUR:
            return view.radiance
        rng = np.random.default_rng([self.seed, 37])
        shake = rng.uniform(4, 10) * rng.choice([-1, 1]) * view.camera.width / 320
        total = np.zeros_like(view.radiance)
        for share in np.linspace(-0.5, 0.5, _BLUR_STEPS):
            time_s = view.time_s + share * _BLUR_MS * 1e-3
            camera = camera_at(time_s).panned(float(share * shake))
            total += self._quick(time_s, camera, view).radiance
        self.stage.set_time(view.time_s)
        return total / np.float32(_BLUR_STEPS)

    def _quick(self, time_s: float, camera: Camera, known: View | None) -> View:
        """A view of `QUICK`, made from one of `FULL` where that is of the same moment and pose."""
        if known is None or time_s != known.time_s or not camera.same_as(known.camera):
            return self.view(time_s, camera, QUICK)
        return replace(known, light=self.shader.quick(known.seen, known.light))

    def _rng(self, stamp_ns: int, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, stamp_ns % (1 << 62), _STREAMS[stream]])

    def _x(
        self, time_s: float, rgb_view: View, exposure: Exposure, wanted: frozenset[Modality]
    ) -> dict[str, Any]:
        """Arrays of the X sensors, by the field of `Record`."""
        arrays: dict[str, Any] = {}
        camera = self.x_camera(time_s)
        view: View | None = None
        if time_s == rgb_view.time_s and camera.same_as(rgb_view.camera):
            view = rgb_view
        if wanted & {Modality.DEPTH, Modality.POLARIZATION}:
            view = view or self.view(time_s, camera)
            stamp_ns = round(time_s * 1e9)
            if Modality.DEPTH in wanted:
                rng = self._rng(stamp_ns, "depth")
                arrays["depth"], arrays["depth_truth"] = self._depth(view, exposure, rng)
            if Modality.POLARIZATION in wanted:
                rng = self._rng(stamp_ns, "polarization")
                arrays["polarization"] = polarization.analyse(self.shader, view, rng)
        if Modality.THERMAL in wanted:
            arrays["thermal"] = self._thermal(time_s, camera, view)
        if Modality.LIGHT_FIELD in wanted:
            arrays["light_field"] = self._light_field(time_s, exposure)
        if Modality.EVENT in wanted:
            arrays["events"] = self._events(time_s, view)
        if wanted & {LIDAR, NIR}:  # last, so that the others see what they see without these
            arrays |= self._added(time_s, view or self.view(time_s, camera), wanted)
        return arrays

    def _added(self, time_s: float, view: View, wanted: frozenset[Modality]) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        stamp_ns, is_street = round(time_s * 1e9), not self.scene.is_indoor
        if LIDAR in wanted:
            arrays["lidar"] = lidar.measure(view, self._rng(stamp_ns, "lidar"), is_street)
        if NIR in wanted:
            rng = self._rng(stamp_ns, "nir")
            arrays["nir"] = nir.photograph_nir(self.shader, view, rng, is_street)
        return arrays

    def _depth(
        self, view: View, exposure: Exposure, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        if self.scene.is_indoor:
            return depth.measure_room(view, rng)
        return depth.measure(view, exposure, rng, self._rig)

    def _thermal(self, time_s: float, camera: Camera, view: View | None) -> NDArray[Any]:
        self.stage.set_time(time_s)
        if view is None:
            seen = see_through(self.shader, camera, panes=True)
            sun_lit = self.shader.sun(seen.surface)
        else:
            seen, sun_lit = self.shader.opaque(
                view.seen, view.light.sun_lit, view.panes, camera.focal
            )
        kelvin = thermal.apparent_kelvin(self.shader, seen, sun_lit)
        stamp_ns = round(time_s * 1e9)
        image = kelvin.reshape(camera.height, camera.width)
        return thermal.thermograph(
            image, self._rng(stamp_ns, "thermal"), self._rng(0, "thermal_columns"), self._gain
        )

    def _light_field(self, time_s: float, exposure: Exposure) -> NDArray[np.uint8]:
        """Views of one camera behind an array of lenses: they share RGB's exposure and shake."""
        side, base = self.config.light_field_views, self.config.light_field_base_m
        steps = np.arange(side) - (side - 1) / 2 if side > 1 else np.array([-1.0])
        views: list[NDArray[np.uint8]] = []
        for row in steps:
            for column in steps:
                camera_at = partial(self._corner, float(column) * base, float(row) * base)
                radiance = self._exposed(self.view(time_s, camera_at(time_s)), camera_at)
                rng = self._rng(round(time_s * 1e9) + len(views), "light_field")
                views.append(self._photograph(radiance, exposure, rng))
        return np.stack(views)

    def _corner(self, right_m: float, down_m: float, time_s: float) -> Camera:
        return self.x_camera(time_s).shifted(right_m, down_m)

    def _events(self, time_s: float, last: View | None) -> Events:
        """Events of the window that ends at a moment, of which the X view may be known."""
        config = self.config
        window_s = config.event_window_ms * 1e-3
        coarse = 3 if self.corruption is Corruption.EVENT_LOW_RESOLUTION else 1
        moments = np.linspace(time_s - window_s, time_s, config.event_substeps + 1)
        pictures = []
        for moment in moments:
            camera = self.x_camera(float(moment))
            camera = camera.resized(1 / coarse) if coarse > 1 else camera
            view = self._quick(float(moment), camera, last)
            pictures.append(view.radiance.mean(axis=2))
        stamps_ns = np.round(moments * 1e9).astype(np.int64)
        rngs = self._rng(int(stamps_ns[-1]), "event"), self._rng(0, "event")
        return event.from_radiance(np.stack(pictures), stamps_ns, *rngs, self._event_camera)


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
    wanted = [Modality(name) for name in sensors]
    for time_s in times_s:
        yield world.record(time_s, wanted)
