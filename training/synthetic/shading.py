"""From rays to light: what each ray meets, and the radiance that comes back along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthetic.optics import fresnel, mirrored, pane_reflection
from training.synthetic.raytrace import FAR, Hits, dot, nearer
from training.synthetic.scene import Lamp, Stage
from training.synthetic.surfaces import Surface, gather, paint
from training.synthetic.textures import smooth_noise

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
LIFT = np.float32(0.004)
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


@dataclass(eq=False)
class Light:
    """Radiance of N rays, kept apart by how it left the surface.

    Attributes:
        diffuse: from below the surface, weighted by what the coat lets through, and the sky, (N, 3).
        emitted: radiance of things that shine themselves (N, 3).
        specular: mirrored at a smooth coat, already weighted by Fresnel's mean (N, 3).
        mirror_at: indices of rays with a specular share.
        incoming: mirrored radiance before weighting, for `mirror_at`.
        mirror_ways: unit directions of the mirrored rays.
        sun_lit: direct sun on each surface of `Seen.at`, cosine included, (n,).
    """

    diffuse: Floats
    emitted: Floats
    specular: Floats
    mirror_at: Indices
    incoming: Floats
    mirror_ways: Floats
    sun_lit: Floats

    @property
    def total(self) -> Floats:
        """All radiance together, (N, 3)."""
        return self.diffuse + self.emitted + self.specular


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
        """First surfaces along rays; `panes` makes glass panes opaque, as long-wave infrared sees them."""
        hits = self.stage.first(origins, directions)
        if panes and not self.stage.panes.is_empty:
            hits = nearer(hits, self.stage.panes.first(origins, directions))
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
        surface = gather(
            columns,
            part,
            {"position": position, "local": local, "normal": normal, "footprint": footprint},
        )
        paint(surface, columns["pattern"][part], self.stage.scene.plan, self.climate)
        cosine = np.clip(-dot(ways, surface.normal), 0.0, 1).astype(np.float32)
        return Seen(origins, directions, hits.distance, at, surface, cosine, width)

    def light(self, seen: Seen, full: bool = True) -> Light:
        """Radiance along rays that have been seen; not `full` leaves out occlusion, shadows and mirrors."""
        count, surface, at = len(seen.directions), seen.surface, seen.at
        diffuse = np.zeros((count, 3), np.float32)
        emitted = np.zeros((count, 3), np.float32)
        specular = np.zeros((count, 3), np.float32)
        start = surface.position + surface.normal * LIFT
        occlusion = self._occlusion(seen, start) if full else np.float32(0.8)
        received = self.climate.ambient(surface.normal) * np.reshape(occlusion, (-1, 1))
        sun_lit = self.sun(surface, start, full)
        received += sun_lit[:, None] * self.climate.sun
        self._lamps(surface, start, received, full)
        body = surface.albedo * received
        mirror = np.flatnonzero(surface.index > 1.01)
        incoming = ways = np.zeros((0, 3), np.float32)
        if full and len(mirror):
            ways = mirrored(seen.directions[at[mirror]], surface.normal[mirror])
            incoming = self._mirror(start[mirror], ways)
            s, p = fresnel(seen.cosine[mirror], surface.index[mirror])
            mean = ((s + p) / 2)[:, None]
            specular[at[mirror]] = incoming * mean
            body[mirror] *= 1 - mean
        diffuse[at] = body
        emitted[at] = surface.emission
        self._air(seen, diffuse, emitted, specular)
        return Light(diffuse, emitted, specular, at[mirror], incoming, ways, sun_lit)

    def behind_panes(self, seen: Seen) -> tuple[Indices, Floats, Floats, Floats]:
        """Glass panes before what was seen.

        Returns:
            indices of rays that meet a pane first, the pane's reflected share of s and p light (n, 2),
            the mirrored radiance (n, 3), and the pane's normals (n, 3).
        """
        none = np.zeros((0, 3), np.float32)
        if self.stage.panes.is_empty:
            return np.zeros(0, np.int64), none[:, :2], none, none
        hits = self.stage.panes.first(seen.origins, seen.directions)
        at = np.flatnonzero((hits.part >= 0) & (hits.distance < seen.distance))
        ways, normal = seen.directions[at], hits.normal[at]
        cosine = np.clip(-dot(ways, normal), 0, 1)
        s, p = fresnel(cosine, np.full(len(at), 1.5, np.float32))
        place = seen.origins[at] + ways * hits.distance[at][:, None] + normal * LIFT
        incoming = self._mirror(place, mirrored(ways, normal))
        share = np.stack([pane_reflection(s), pane_reflection(p)], axis=1)
        return at, share, incoming, normal

    def sky(self, directions: Floats) -> Floats:
        """Sky radiance along unit directions."""
        height = np.maximum(directions[:, 2], 0.06)
        clouds = smooth_noise(directions[:, 0] / height + 40, directions[:, 1] / height, 1.3)
        return self.climate.sky(directions, clouds)

    def _mirror(self, origins: Floats, ways: Floats) -> Floats:
        seen = self.see(origins, ways, 120.0)
        return self.light(seen, full=False).total

    def _air(self, seen: Seen, diffuse: Floats, emitted: Floats, specular: Floats) -> None:
        gone = np.flatnonzero(seen.distance >= FAR)
        diffuse[gone] = self.sky(seen.directions[gone])
        clear = np.exp(-self.climate.fog * seen.distance[seen.at])[:, None]
        veil = self.climate.horizon * (1 - clear)
        diffuse[seen.at] = diffuse[seen.at] * clear + veil
        emitted[seen.at] *= clear
        specular[seen.at] *= clear

    def sun(self, surface: Surface, start: Floats, full: bool) -> Floats:
        lit = np.clip(surface.normal @ self.climate.to_sun, 0, 1).astype(np.float32)
        if float(self.climate.sun.max()) == 0:
            return np.zeros_like(lit)
        faces = np.flatnonzero(lit > 0)
        ways = np.ascontiguousarray(np.broadcast_to(self.climate.to_sun, (len(faces), 3)))
        if full:
            lit[faces[self.stage.blocked(start[faces], ways, 200.0)]] = 0
        else:
            lit *= np.float32(0.6)
        return lit

    def _lamps(self, surface: Surface, start: Floats, received: Floats, full: bool) -> None:
        for lamp in self.stage.lamps:
            self._lamp(lamp, surface, start, received, full)

    def _lamp(
        self, lamp: Lamp, surface: Surface, start: Floats, received: Floats, full: bool
    ) -> None:
        offset = lamp.position - surface.position
        squared = dot(offset, offset)
        near = np.flatnonzero(squared < lamp.reach**2)
        if not len(near):
            return
        away = np.sqrt(squared[near])
        ways = offset[near] / away[:, None]
        facing = dot(ways, surface.normal[near])
        cone = np.clip((-(ways @ lamp.way) - lamp.spread) / (1 - lamp.spread), 0, 1)
        edge = np.clip((1 - away / lamp.reach) * 3, 0, 1)
        power = (
            np.clip(facing, 0, 1)
            * cone
            * cone
            * (3 - 2 * cone)
            * edge
            / np.maximum(squared[near], 9.0)
        )
        strong = np.flatnonzero(power * float(lamp.colour.max()) > 4e-4)
        near, power = near[strong], power[strong]
        if full and len(near):
            ways = np.ascontiguousarray(ways[strong], np.float32)
            power[self.stage.blocked(start[near], ways, away[strong] - 0.5)] = 0
        received[near] += power[:, None] * lamp.colour

    def _occlusion(self, seen: Seen, start: Floats) -> Floats:
        """Share of the hemisphere that is open within a few metres: one ray a pixel, averaged over 4x4."""
        if not seen.width:
            return np.full(len(seen.at), 0.85, np.float32)
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
        open_ray = (~self.stage.blocked(start, ways, 3.0)).astype(np.float32)
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
