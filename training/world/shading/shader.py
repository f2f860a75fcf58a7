"""Shading: the surface that each ray hits, and the radiance that comes back along it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.rays.cameras import Camera
from training.world.rays.optics import fresnel, mirrored, pane_reflection
from training.world.rays.raytrace import FAR, Hits, first_hits
from training.world.rays.vectors import Floats, Indices, Mask, dot
from training.world.scenes.scene import Lamp
from training.world.shading.stage import Stage
from training.world.surfaces.noise import smooth_noise
from training.world.surfaces.surface import Surface, bare, paint

LIFT = np.float32(0.004)
PANE_IOR = 1.5
PANE_CLEAR = np.float32(0.92)
USUAL_OPEN_SHARE = np.float32(0.85)
"""Of the sky above a surface, where it is not searched for."""
_TILE = 4


@dataclass(eq=False)
class Seen:
    """What N rays hit.

    Attributes:
        origins: (N, 3) metres.
        directions: unit (N, 3).
        distance: metres (N,), `FAR` for the sky.
        rays: indices of the rays that hit something, (n,).
        surface: surfaces of those, n long.
        cosine: between ray and shading normal, (n,).
        width: pixels per row where the rays form an image, else 0.
    """

    origins: Floats
    directions: Floats
    distance: Floats
    rays: Indices
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
class Reflection:
    """What mirrored rays bring back.

    Attributes:
        radiance: (n, 3), before weighting by the mirror.
        directions: unit directions of the rays, away from the mirror, (n, 3).
        is_sky: rays that hit nothing but sky, (n,).
    """

    radiance: Floats
    directions: Floats
    is_sky: Mask

    @staticmethod
    def empty() -> Reflection:
        """No rays."""
        return Reflection(
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
        direct: light of the sun and of each lamp, as rows of `Seen.rays` and what they receive.
        coated: indices into `Seen.rays` of surfaces with a smooth coat, (m,).
        reflection: what those mirror.
        sun_lit: direct sun on each surface of `Seen.rays`, cosine included, (n,).
    """

    diffuse: Floats
    emitted: Floats
    specular: Floats
    direct: list[tuple[Indices, Floats]]
    coated: Indices
    reflection: Reflection
    sun_lit: Floats

    @property
    def total(self) -> Floats:
        """All radiance together, (N, 3)."""
        return self.diffuse + self.emitted + self.specular


@dataclass(eq=False)
class Panes:
    """Clear glass panes before what was seen.

    Attributes:
        rays: indices of the rays that hit a pane first.
        share: reflected shares of s- and p-polarized light, (n, 2).
        reflection: what the panes mirror.
        hits: of those rays with the panes, n long.
    """

    rays: Indices
    share: Floats
    reflection: Reflection
    hits: Hits

    def over(self, radiance: Floats) -> Floats:
        """Radiance (N, 3) as seen through and by the panes."""
        if not len(self.rays):
            return radiance
        mean = self.share.mean(axis=1, keepdims=True)
        behind = radiance[self.rays] * (1 - mean) * PANE_CLEAR
        radiance = radiance.copy()
        radiance[self.rays] = behind + self.reflection.radiance * mean
        return radiance


@dataclass(eq=False)
class View:
    """Surfaces and light before a camera at a moment, before any sensor has measured them.

    Attributes:
        camera: pose and pixel grid.
        time_s: the moment.
        seen: first opaque surfaces.
        light: radiance from them.
        panes: clear glass before them.
    """

    camera: Camera
    time_s: float
    seen: Seen
    light: Light
    panes: Panes

    @property
    def radiance(self) -> Floats:
        """Linear radiance with glass panes, (H, W, 3)."""
        return self.image(self.panes.over(self.light.total))

    def image(self, values: NDArray[Any]) -> NDArray[Any]:
        """Per-ray values (N, ...) on the pixel grid."""
        return values.reshape(self.camera.height, self.camera.width, *values.shape[1:])


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
        rays = np.flatnonzero(hits.part >= 0)
        distance, part = hits.distance[rays], hits.part[rays]
        incoming, normal = directions[rays], hits.normal[rays]
        position = origins[rays] + incoming * distance[:, None]
        local, scene = position.copy(), self.stage.scene
        if scene.bend is not None:
            local[:, 1] -= scene.bend(position[:, 0])
        cosine = np.clip(-dot(incoming, normal), 0.02, 1)
        footprint = (distance / np.float32(focal) / np.sqrt(cosine)).astype(np.float32)
        columns = self.stage.columns
        places = {"position": position, "local": local, "normal": normal, "footprint": footprint}
        surface = bare(columns, part, places)
        paint(surface, columns["pattern"][part], scene.painters)
        if scene.texture is not None:
            scene.texture(surface)
        cosine = np.clip(-dot(incoming, surface.normal), 0.0, 1).astype(np.float32)
        return Seen(origins, directions, hits.distance, rays, surface, cosine, width)

    def light(self, seen: Seen, quality: Quality = FULL) -> Light:
        """Radiance along rays whose surfaces are known."""
        surface, rays = seen.surface, seen.rays
        emitted, specular = np.zeros((2, *seen.directions.shape), np.float32)
        start = surface.position + surface.normal * LIFT
        open_share = self._occlusion(seen, start) if quality.occlusion else USUAL_OPEN_SHARE
        sun_lit = self.sun(surface, quality.shadows)
        direct = [self._lamp(lamp, surface, start, quality.shadows) for lamp in self.stage.lamps]
        if sun_lit.any():
            every = np.arange(len(rays))
            direct.insert(0, (every, sun_lit[:, None] * self.climate.sun))
        coated = np.flatnonzero(surface.ior > 1.01) if quality.mirrors else np.zeros(0, np.int64)
        reflection = Reflection.empty()
        if len(coated):
            outgoing = mirrored(seen.directions[rays[coated]], surface.normal[coated])
            reflection = self._reflection(start[coated], outgoing)
            mean = self._mirror_share(seen, coated)
            specular[rays[coated]] = reflection.radiance * mean
        clear = self._clear(seen)
        diffuse = self._diffuse(seen, open_share, direct, coated, clear)
        emitted[rays] = surface.emission * clear
        specular[rays] *= clear
        return Light(diffuse, emitted, specular, direct, coated, reflection, sun_lit)

    def quick(self, seen: Seen, light: Light) -> Light:
        """What `light` with `QUICK` gives, from the light of `FULL`."""
        clear = self._clear(seen)
        diffuse = self._diffuse(seen, USUAL_OPEN_SHARE, light.direct, light.coated, clear)
        return replace(light, diffuse=diffuse)

    def _diffuse(
        self,
        seen: Seen,
        open_share: Floats | np.float32,
        direct: list[tuple[Indices, Floats]],
        coated: Indices,
        clear: Floats,
    ) -> Floats:
        """`Light.diffuse` of surfaces that see a share (n,) of the sky."""
        surface = seen.surface
        received = self.climate.ambient(surface.normal) * np.reshape(open_share, (-1, 1))
        for rows, light in direct:
            received[rows] += light
        body = surface.albedo * received
        if len(coated):
            body[coated] *= 1 - self._mirror_share(seen, coated)
        diffuse = np.zeros(seen.directions.shape, np.float32)
        sky_rays = np.flatnonzero(seen.distance >= FAR)
        diffuse[sky_rays] = self.sky(seen.directions[sky_rays])
        diffuse[seen.rays] = body * clear + self.climate.horizon * (1 - clear)
        return diffuse

    def _clear(self, seen: Seen) -> Floats:
        """Share of light that the air lets through from each surface, (n, 1)."""
        return np.exp(-self.climate.fog * seen.distance[seen.rays])[:, None]

    def _mirror_share(self, seen: Seen, coated: Indices) -> Floats:
        s, p = fresnel(seen.cosine[coated], seen.surface.ior[coated])
        return ((s + p) / 2)[:, None]

    def panes(self, seen: Seen, rays: Indices) -> Panes:
        """Glass panes before the surfaces.

        Args:
            seen: the surfaces.
            rays: those that may hit a pane.
        """
        hits = first_hits([self.stage.panes], seen.origins[rays], seen.directions[rays])
        nearer = np.flatnonzero((hits.part >= 0) & (hits.distance < seen.distance[rays]))
        rays, hits = rays[nearer], hits.of(nearer)
        if not len(rays):
            share = np.zeros((0, 2), np.float32)
            return Panes(rays, share, Reflection.empty(), hits)
        incoming, normal = seen.directions[rays], hits.normal
        cosine = np.clip(-dot(incoming, normal), 0, 1)
        s, p = fresnel(cosine, np.full(len(rays), PANE_IOR, np.float32))
        place = seen.origins[rays] + incoming * hits.distance[:, None] + normal * LIFT
        share = np.stack([pane_reflection(s), pane_reflection(p)], axis=1)
        return Panes(rays, share, self._reflection(place, mirrored(incoming, normal)), hits)

    def opaque(
        self, seen: Seen, sun_lit: Floats, panes: Panes, focal: float
    ) -> tuple[Seen, Floats]:
        """Surfaces and their direct sun where panes hide what is behind, as infrared sees them.

        Args:
            seen: what is behind the panes.
            sun_lit: direct sun on it, (n,).
            panes: before it.
            focal: of the camera, px.
        """
        rays = panes.rays
        if not len(rays):
            return seen, sun_lit
        glass = self.surfaces(panes.hits, seen.origins[rays], seen.directions[rays], focal)
        distance = seen.distance.copy()
        distance[rays] = panes.hits.distance
        kept = np.flatnonzero(~np.isin(seen.rays, rays))
        rays = np.concatenate([seen.rays[kept], rays])
        order = np.argsort(rays)
        surface = seen.surface.of(kept).joined(glass.surface).of(order)
        cosine = np.concatenate([seen.cosine[kept], glass.cosine])[order]
        lit = np.concatenate([sun_lit[kept], self.sun(glass.surface)])[order]
        seen = replace(seen, distance=distance, rays=rays[order], surface=surface, cosine=cosine)
        return seen, lit

    def sky(self, directions: Floats) -> Floats:
        """Sky radiance along unit directions."""
        return self.climate.sky(directions, self._clouds(directions))

    def sky_temperature(self, directions: Floats) -> Floats:
        """Apparent temperature of the sky along unit directions."""
        clouds = self._clouds(directions) if self.climate.cloud_octaves > 1 else None
        return self.climate.sky_temperature(directions, clouds)

    def _clouds(self, directions: Floats) -> Floats:
        height = np.maximum(directions[:, 2], 0.06)
        shift = np.float32(self.climate.cloud_shift)
        x, y = directions[:, 0] / height + shift, directions[:, 1] / height
        clouds = smooth_noise(x, y, 1.3)
        for octave in range(1, self.climate.cloud_octaves):
            clouds = clouds + 0.7**octave * smooth_noise(x + octave, y, 1.3 / 2.3**octave)
        return clouds.astype(np.float32)

    def _reflection(self, origins: Floats, directions: Floats) -> Reflection:
        seen = self.see(origins, directions, 120.0)
        return Reflection(self.light(seen, _MIRRORED).total, directions, seen.distance >= FAR)

    def sun(self, surface: Surface, shadows: bool = True) -> Floats:
        """Direct sun on surfaces, cosine included, (n,)."""
        lit = np.clip(surface.normal @ self.climate.to_sun, 0, 1).astype(np.float32)
        if float(self.climate.sun.max()) == 0:
            return np.zeros_like(lit)
        faces = np.flatnonzero(lit > 0)
        if not shadows:
            return lit * np.float32(0.6)
        start = surface.position[faces] + surface.normal[faces] * LIFT
        to_sun = np.ascontiguousarray(np.broadcast_to(self.climate.to_sun, (len(faces), 3)))
        lit[faces[self.stage.blocked(start, to_sun, 200.0)]] = 0
        return lit

    def _lamp(
        self, lamp: Lamp, surface: Surface, start: Floats, shadows: bool
    ) -> tuple[Indices, Floats]:
        """Rows of the surfaces that a lamp shines on, and what they receive."""
        rows = np.flatnonzero(np.abs(surface.position[:, 0] - lamp.position[0]) < lamp.reach)
        # Columns one by one: numpy is several times as fast on them as on rows of three.
        x, y, z = (lamp.position[i] - surface.position[rows, i] for i in range(3))
        squared = x * x + y * y + z * z
        u, v, w = (surface.normal[rows, i] for i in range(3))
        faces_it = x * u + y * v + z * w > 0
        kept = np.flatnonzero((squared < lamp.reach**2) & faces_it)
        distance = np.sqrt(squared[kept])
        x, y, z = (each[kept] / distance for each in (x, y, z))
        facing = x * u[kept] + y * v[kept] + z * w[kept]
        along = x * lamp.direction[0] + y * lamp.direction[1] + z * lamp.direction[2]
        cone = np.clip((-along - lamp.spread) / (1 - lamp.spread), 0, 1)
        edge = np.clip((1 - distance / lamp.reach) * 3, 0, 1)
        power = np.clip(facing, 0, 1) * cone * cone * (3 - 2 * cone) * edge
        power = power / np.maximum(squared[kept], 9.0)
        strong = np.flatnonzero(power * float(lamp.colour.max()) > 4e-4)
        rows, power = rows[kept[strong]], power[strong]
        if shadows and len(rows):
            to_lamp = np.stack([x[strong], y[strong], z[strong]], axis=1)
            power[self.stage.blocked(start[rows], to_lamp, distance[strong] - 0.5)] = 0
        return rows, power[:, None] * lamp.colour

    def _occlusion(self, seen: Seen, start: Floats) -> Floats:
        """Open share of the hemisphere within a few metres: one ray a pixel, averaged over 4x4."""
        row, column = np.divmod(seen.rays, seen.width)
        cell = (row % _TILE) * _TILE + column % _TILE
        u, v, lift = _probes()
        normal = seen.surface.normal
        sign = np.where(normal[:, 2] >= 0, 1.0, -1.0)
        a = -1.0 / (sign + normal[:, 2])
        b = normal[:, 0] * normal[:, 1] * a
        first = np.stack(
            [1 + sign * normal[:, 0] ** 2 * a, sign * b, -sign * normal[:, 0]], axis=1
        )
        second = np.stack([b, sign + normal[:, 1] ** 2 * a, -normal[:, 1]], axis=1)
        probes = first * u[cell][:, None] + second * v[cell][:, None]
        probes = np.ascontiguousarray(probes + normal * lift[cell][:, None], np.float32)
        reach = 0.9 if self.stage.scene.is_indoor else 3.0
        is_open = ~self.stage.blocked(start, probes, reach)
        return _smoothed(seen, is_open.astype(np.float32))


def see_through(shader: Shader, camera: Camera, panes: bool = False) -> Seen:
    """First surfaces of a camera's rays at the stage's present moment."""
    directions = camera.rays()
    origins = np.ascontiguousarray(np.broadcast_to(camera.position, directions.shape))
    return shader.see(origins, directions, camera.focal, camera.width, panes)


def view_through(shader: Shader, camera: Camera, time_s: float, quality: Quality = FULL) -> View:
    """The view of a camera at a moment."""
    shader.stage.set_time(time_s)
    seen = see_through(shader, camera)
    near = [camera.rays_near(corners) for corners in shader.stage.pane_corners]
    rays = np.unique(np.concatenate([np.zeros(0, np.int64), *near]))
    return View(camera, time_s, seen, shader.light(seen, quality), shader.panes(seen, rays))


@lru_cache(maxsize=1)
def _probes() -> tuple[Floats, Floats, Floats]:
    """Directions about the z axis, one for each pixel of a tile, spread evenly by cosine."""
    order = np.array([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5])
    radius = np.sqrt((order + 0.5) / 16)
    turn = order * np.float32(2.39996)
    return radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - radius**2)


def _smoothed(seen: Seen, values: Floats) -> Floats:
    count = len(seen.directions)
    height = count // seen.width
    face = np.round(seen.surface.normal * 2).astype(np.int32) + 2
    key = np.full(count, -1, np.int32)
    key[seen.rays] = seen.surface.part * 125 + face[:, 0] * 25 + face[:, 1] * 5 + face[:, 2]
    image = np.zeros(count, np.float32)
    image[seen.rays] = values
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
    return (total / np.maximum(weight, 1)).ravel()[seen.rays]
