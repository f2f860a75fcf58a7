"""From rays to light: what each ray meets, and the radiance that comes back along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.rays.optics import fresnel, mirrored, pane_reflection
from training.world.rays.raytrace import FAR, Hits, dot, first_hits
from training.world.scenes.scene import Lamp, Stage
from training.world.surfaces.noise import smooth_noise
from training.world.surfaces.street_patterns import paint
from training.world.surfaces.surface import Surface, gather

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
LIFT = np.float32(0.004)
PANE_INDEX = 1.5
PANE_CLEAR = np.float32(0.92)
_TILE = 4


@dataclass(eq=False)
class Seen:
    """What N rays met.

    Attributes:
        origins: (N, 3) metres.
        directions: unit (N, 3).
        distance: metres (N,), `FAR` for the sky.
        at: indices of the rays that hit something, (n,).
        surface: surfaces of those, n long.
        cosine: between ray and shading normal, (n,).
        width: pixels per row where the rays form an image, else 0.
    """

    origins: Floats
    directions: Floats
    distance: Floats
    at: Indices
    surface: Surface
    cosine: Floats
    width: int = 0


@dataclass(frozen=True)
class Quality:
    """Which costly parts of light are computed.

    Attributes:
        occlusion: open sky is searched round each point, else a constant share is taken.
        shadows: lamps and sun are blocked by what stands before them.
        mirrors: smooth coats show what they reflect.
    """

    occlusion: bool = True
    shadows: bool = True
    mirrors: bool = True


FULL = Quality()
QUICK = Quality(occlusion=False)
"""For pictures whose differences in time matter: nothing that is sampled."""
_MIRRORED = Quality(occlusion=False, shadows=False, mirrors=False)


@dataclass(eq=False)
class Mirrored:
    """What mirrored rays brought.

    Attributes:
        radiance: (n, 3), before weighting by the mirror.
        ways: unit directions of the rays, away from the mirror, (n, 3).
        is_sky: rays that met only sky, (n,).
    """

    radiance: Floats
    ways: Floats
    is_sky: NDArray[np.bool_]

    @staticmethod
    def empty() -> Mirrored:
        """No rays."""
        return Mirrored(
            np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, bool)
        )


@dataclass(eq=False)
class Light:
    """Radiance of N rays, kept apart by how it left the surface.

    Attributes:
        diffuse: from below the surface, weighted by what the coat lets through, and the sky, (N,
            3).
        emitted: radiance of things that shine themselves (N, 3).
        specular: mirrored at a smooth coat, already weighted by Fresnel's mean (N, 3).
        mirror: indices into `Seen.at` of surfaces with a specular share, (m,).
        met: what those mirror.
        sun_lit: direct sun on each surface of `Seen.at`, cosine included, (n,).
    """

    diffuse: Floats
    emitted: Floats
    specular: Floats
    mirror: Indices
    met: Mirrored
    sun_lit: Floats

    @property
    def total(self) -> Floats:
        """All radiance together, (N, 3)."""
        return self.diffuse + self.emitted + self.specular


@dataclass(eq=False)
class Panes:
    """Clear glass panes before what was seen.

    Attributes:
        at: indices of the rays that meet a pane first.
        share: reflected shares of s- and p-polarized light, (n, 2).
        met: what the panes mirror.
        normal: unit normals of the panes, (n, 3).
    """

    at: Indices
    share: Floats
    met: Mirrored
    normal: Floats

    def over(self, radiance: Floats) -> Floats:
        """Radiance (N, 3) as seen through and by the panes."""
        if not len(self.at):
            return radiance
        mean = self.share.mean(axis=1, keepdims=True)
        behind = radiance[self.at] * (1 - mean) * PANE_CLEAR
        radiance = radiance.copy()
        radiance[self.at] = behind + self.met.radiance * mean
        return radiance


class Shader:
    """Answers rays for one stage at its current moment."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.climate = stage.scene.climate

    def see(
        self,
        origins: Floats,
        directions: Floats,
        focal: float,
        width: int = 0,
        panes: bool = False,
    ) -> Seen:
        """First surfaces along rays; `panes` makes glass panes opaque, as infrared sees them."""
        hits = self.stage.first(origins, directions, panes)
        return self.surfaces(hits, origins, directions, focal, width)

    def surfaces(
        self, hits: Hits, origins: Floats, directions: Floats, focal: float, width: int = 0
    ) -> Seen:
        """Surfaces of given hits."""
        at = np.flatnonzero(hits.part >= 0)
        away, part = hits.distance[at], hits.part[at]
        ways, normal = directions[at], hits.normal[at]
        position = origins[at] + ways * away[:, None]
        local = position.copy()
        local[:, 1] -= self.stage.scene.plan.shift(position[:, 0])
        cosine = np.clip(-dot(ways, normal), 0.02, 1)
        footprint = (away / np.float32(focal) / np.sqrt(cosine)).astype(np.float32)
        columns = self.stage.columns
        places = {"position": position, "local": local, "normal": normal, "footprint": footprint}
        surface = gather(columns, part, places, self.stage.scene.plan, self.climate)
        paint(surface, columns["pattern"][part])
        cosine = np.clip(-dot(ways, surface.normal), 0.0, 1).astype(np.float32)
        return Seen(origins, directions, hits.distance, at, surface, cosine, width)

    def light(self, seen: Seen, quality: Quality = FULL) -> Light:
        """Radiance along rays that have been seen."""
        count, surface, at = len(seen.directions), seen.surface, seen.at
        diffuse = np.zeros((count, 3), np.float32)
        emitted = np.zeros((count, 3), np.float32)
        specular = np.zeros((count, 3), np.float32)
        start = surface.position + surface.normal * LIFT
        occlusion = self._occlusion(seen, start) if quality.occlusion else np.float32(0.85)
        received = self.climate.ambient(surface.normal) * np.reshape(occlusion, (-1, 1))
        sun_lit = self.sun(surface, quality.shadows)
        received += sun_lit[:, None] * self.climate.sun
        for lamp in self.stage.lamps:
            self._lamp(lamp, surface, start, received, quality.shadows)
        body = surface.albedo * received
        mirror = np.flatnonzero(surface.index > 1.01) if quality.mirrors else np.zeros(0, np.int64)
        met = Mirrored.empty()
        if len(mirror):
            ways = mirrored(seen.directions[at[mirror]], surface.normal[mirror])
            met = self._mirror(start[mirror], ways)
            s, p = fresnel(seen.cosine[mirror], surface.index[mirror])
            mean = ((s + p) / 2)[:, None]
            specular[at[mirror]] = met.radiance * mean
            body[mirror] *= 1 - mean
        diffuse[at] = body
        emitted[at] = surface.emission
        self._air(seen, diffuse, emitted, specular)
        return Light(diffuse, emitted, specular, mirror, met, sun_lit)

    def panes(self, seen: Seen) -> Panes:
        """Glass panes before what was seen."""
        tracer = self.stage.panes
        hits = first_hits([tracer], seen.origins, seen.directions)
        if not (hits.part >= 0).any():
            none = np.zeros((0, 3), np.float32)
            return Panes(np.zeros(0, np.int64), none[:, :2], Mirrored.empty(), none)
        at = np.flatnonzero((hits.part >= 0) & (hits.distance < seen.distance))
        ways, normal = seen.directions[at], hits.normal[at]
        cosine = np.clip(-dot(ways, normal), 0, 1)
        s, p = fresnel(cosine, np.full(len(at), PANE_INDEX, np.float32))
        place = seen.origins[at] + ways * hits.distance[at][:, None] + normal * LIFT
        share = np.stack([pane_reflection(s), pane_reflection(p)], axis=1)
        return Panes(at, share, self._mirror(place, mirrored(ways, normal)), normal)

    def sky(self, directions: Floats) -> Floats:
        """Sky radiance along unit directions."""
        height = np.maximum(directions[:, 2], 0.06)
        clouds = smooth_noise(directions[:, 0] / height + 40, directions[:, 1] / height, 1.3)
        return self.climate.sky(directions, clouds)

    def _mirror(self, origins: Floats, ways: Floats) -> Mirrored:
        seen = self.see(origins, ways, 120.0)
        return Mirrored(self.light(seen, _MIRRORED).total, ways, seen.distance >= FAR)

    def _air(self, seen: Seen, diffuse: Floats, emitted: Floats, specular: Floats) -> None:
        gone = np.flatnonzero(seen.distance >= FAR)
        diffuse[gone] = self.sky(seen.directions[gone])
        clear = np.exp(-self.climate.fog * seen.distance[seen.at])[:, None]
        veil = self.climate.horizon * (1 - clear)
        diffuse[seen.at] = diffuse[seen.at] * clear + veil
        emitted[seen.at] *= clear
        specular[seen.at] *= clear

    def sun(self, surface: Surface, shadows: bool = True) -> Floats:
        """Direct sun on surfaces, cosine included, (n,)."""
        lit = np.clip(surface.normal @ self.climate.to_sun, 0, 1).astype(np.float32)
        if float(self.climate.sun.max()) == 0:
            return np.zeros_like(lit)
        faces = np.flatnonzero(lit > 0)
        if not shadows:
            return lit * np.float32(0.6)
        start = surface.position[faces] + surface.normal[faces] * LIFT
        ways = np.ascontiguousarray(np.broadcast_to(self.climate.to_sun, (len(faces), 3)))
        lit[faces[self.stage.blocked(start, ways, 200.0)]] = 0
        return lit

    def _lamp(
        self, lamp: Lamp, surface: Surface, start: Floats, received: Floats, shadows: bool
    ) -> None:
        near = np.flatnonzero(np.abs(surface.position[:, 0] - lamp.position[0]) < lamp.reach)
        offset = lamp.position - surface.position[near]
        squared = dot(offset, offset)
        kept = np.flatnonzero(squared < lamp.reach**2)
        if not len(kept):
            return
        near, offset, squared = near[kept], offset[kept], squared[kept]
        away = np.sqrt(squared)
        ways = offset / away[:, None]
        facing = dot(ways, surface.normal[near])
        cone = np.clip((-(ways @ lamp.way) - lamp.spread) / (1 - lamp.spread), 0, 1)
        edge = np.clip((1 - away / lamp.reach) * 3, 0, 1)
        power = (
            np.clip(facing, 0, 1) * cone * cone * (3 - 2 * cone) * edge / np.maximum(squared, 9.0)
        )
        strong = np.flatnonzero(power * float(lamp.colour.max()) > 4e-4)
        near, power = near[strong], power[strong]
        if shadows and len(near):
            ways = np.ascontiguousarray(ways[strong], np.float32)
            power[self.stage.blocked(start[near], ways, away[strong] - 0.5)] = 0
        received[near] += power[:, None] * lamp.colour

    def _occlusion(self, seen: Seen, start: Floats) -> Floats:
        """Open share of the hemisphere within a few metres: one ray a pixel, averaged over 4x4."""
        row, column = np.divmod(seen.at, seen.width)
        cell = (row % _TILE) * _TILE + column % _TILE
        order = np.array([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5])[cell]
        radius = np.sqrt((order + 0.5) / 16)
        turn = order * np.float32(2.39996)
        normal = seen.surface.normal
        sign = np.where(normal[:, 2] >= 0, 1.0, -1.0)
        a = -1.0 / (sign + normal[:, 2])
        b = normal[:, 0] * normal[:, 1] * a
        first = np.stack(
            [1 + sign * normal[:, 0] ** 2 * a, sign * b, -sign * normal[:, 0]], axis=1
        )
        second = np.stack([b, sign + normal[:, 1] ** 2 * a, -normal[:, 1]], axis=1)
        lift = np.sqrt(1 - radius**2)[:, None]
        ways = first * (radius * np.cos(turn))[:, None] + second * (radius * np.sin(turn))[:, None]
        ways = np.ascontiguousarray(ways + normal * lift, np.float32)
        open_ray = (
            ~self.stage.blocked(start, ways, 0.9 if self.stage.scene.is_indoor else 3.0)
        ).astype(np.float32)
        return _smoothed(seen, open_ray)


def _smoothed(seen: Seen, values: Floats) -> Floats:
    count = len(seen.directions)
    height = count // seen.width
    face = np.round(seen.surface.normal * 2).astype(np.int32) + 2
    key = np.full(count, -1, np.int32)
    key[seen.at] = seen.surface.part * 125 + face[:, 0] * 25 + face[:, 1] * 5 + face[:, 2]
    image = np.zeros(count, np.float32)
    image[seen.at] = values
    keys, pixels = key.reshape(height, seen.width), image.reshape(height, seen.width)
    keys = np.pad(keys, 2, constant_values=-2)
    pixels = np.pad(pixels, 2)
    centre = keys[2 : 2 + height, 2 : 2 + seen.width]
    total, weight = np.zeros_like(pixels[2:-2, 2:-2]), np.zeros_like(pixels[2:-2, 2:-2])
    for i in range(_TILE):
        for j in range(_TILE):
            same = keys[i : i + height, j : j + seen.width] == centre
            total += pixels[i : i + height, j : j + seen.width] * same
            weight += same
    return (total / np.maximum(weight, 1)).ravel()[seen.at]
