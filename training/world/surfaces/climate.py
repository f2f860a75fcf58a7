"""Light, air and warmth of one moment: what all surfaces of a scene share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from training.world.rays.vectors import Floats, dot, unit


class TimeOfDay(str, Enum):
    """Light situations, from bright to dark."""

    DAY = "day"
    OVERCAST = "overcast"
    DUSK = "dusk"
    NIGHT = "night"


SHARES = {
    TimeOfDay.DAY: 0.25,
    TimeOfDay.OVERCAST: 0.17,
    TimeOfDay.DUSK: 0.16,
    TimeOfDay.NIGHT: 0.42,
}
"""How often each is drawn when a world leaves it open."""


BLACK = np.zeros(3, np.float32)
UP = np.array([0, 0, 1], np.float32)


@dataclass(frozen=True, eq=False)
class Climate:
    """One moment's light and weather; the defaults are a place without sun and sky.

    Radiance is relative: a white wall in full sun has about 1.

    Attributes:
        zenith: sky radiance overhead, RGB; in a room what its walls throw back.
        horizon: the same at the horizon.
        air_kelvin: air temperature.
        time_of_day: light situation.
        to_sun: unit vector towards the sun (below the horizon at dusk and night).
        sun: radiance that full sun gives a white surface, RGB.
        glow: extra sky radiance near the sun.
        clouds: 0 clear to 1 covered.
        lamps_on: street lamps, head lamps and windows shine.
        fog: extinction of light per metre.
        sky_kelvin: apparent thermal temperature of the sky overhead; None where there is no sky.
        ground_kelvin: how much warmer than air the road is in the shade.
        sun_factor: how much of `Part.sun_kelvin` a sun-lit surface has stored, 0 to 1.
        wetness: 0 dry; above it puddles stand and asphalt is damp.
        cloud_octaves: finer and finer layers of clouds, each half as strong.
        cloud_shading: how much brighter and darker clouds are than their mean.
        cloud_shift: metres, so that skies differ.
    """

    zenith: Floats
    horizon: Floats
    air_kelvin: float
    time_of_day: TimeOfDay = TimeOfDay.OVERCAST
    to_sun: Floats = field(default_factory=UP.copy)
    sun: Floats = field(default_factory=BLACK.copy)
    glow: Floats = field(default_factory=BLACK.copy)
    clouds: float = 1.0
    lamps_on: bool = False
    fog: float = 0.0
    sky_kelvin: float | None = None
    ground_kelvin: float = 0.0
    sun_factor: float = 0.0
    wetness: float = 0.0
    cloud_octaves: int = 1
    cloud_shading: float = 0.0
    cloud_shift: float = 40.0

    def sky(self, directions: Floats, cloud_noise: Floats) -> Floats:
        """Sky radiance (N, 3) along unit directions; `cloud_noise` (N,) is about zero-mean."""
        up = np.clip(directions[:, 2], 0, 1)[:, None]
        base = self.zenith + (self.horizon - self.zenith) * (1 - up) ** 3
        near = np.clip(dot(directions, self.to_sun), 0, 1)[:, None]
        base = base + self.glow * (0.35 * near**4 + 0.65 * near**48)
        cover = np.clip(self.clouds + 0.9 * cloud_noise, 0, 1)[:, None]
        white = (self.zenith + self.horizon).mean() * np.float32(0.62)
        if self.cloud_shading > 0:
            white = white * (1 - self.cloud_shading * cloud_noise[:, None] * 2)
        return (base + (white - base) * cover * np.float32(0.7)).astype(np.float32)

    def ambient(self, normals: Floats) -> Floats:
        """Radiance that sky and ground bounce give a white surface, without occlusion, (N, 3)."""
        lift = 0.5 + 0.5 * normals[:, 2:3]
        dome = 0.55 * self.zenith + 0.45 * self.horizon
        bounce = 0.22 * dome + 0.12 * self.sun * max(float(self.to_sun[2]), 0.0)
        return (dome * lift + bounce * (1 - lift)).astype(np.float32)

    def sky_temperature(self, directions: Floats, cloud_noise: Floats | None = None) -> Floats:
        """Apparent temperature of the sky along directions: cold overhead, near air far below.

        Without a sky it is the air's.

        Args:
            directions: unit, (N, 3).
            cloud_noise: about zero-mean, (N,); clouds are warmer than the sky between them.
        """
        if self.sky_kelvin is None:
            return np.full(len(directions), self.air_kelvin, np.float32)
        share = np.exp(-2.2 * np.clip(unit(directions)[:, 2], 0, 1))
        low = self.air_kelvin - 6.0
        kelvin = self.sky_kelvin + (low - self.sky_kelvin) * share
        if cloud_noise is not None:
            kelvin += (low - kelvin) * np.clip(self.clouds + 0.9 * cloud_noise, 0, 1) * 0.6
        return kelvin.astype(np.float32)


def draw_climate(rng: np.random.Generator, time_of_day: TimeOfDay | None = None) -> Climate:
    """A random moment, of a given time of day if one is named."""
    kinds = list(SHARES)
    drawn = kinds[int(rng.choice(len(kinds), p=np.array(list(SHARES.values()))))]
    kind = time_of_day or drawn
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = _elevation(rng, kind)
    to_sun = np.array(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    light = _light(rng, kind, elevation)
    is_dark = kind in (TimeOfDay.DUSK, TimeOfDay.NIGHT)
    clouds = _clouds(rng, kind)
    air = rng.uniform(277, 291) if is_dark else rng.uniform(281, 298)
    covered = float(np.clip(clouds, 0, 1))
    foggy = rng.uniform() < 0.2
    fog = rng.uniform(0.01, 0.025) if foggy else rng.uniform(0.0008, 0.003)
    wet = rng.uniform() < 0.55
    return Climate(
        time_of_day=kind,
        to_sun=to_sun.astype(np.float32),
        sun=light[0].astype(np.float32),
        zenith=light[1].astype(np.float32),
        horizon=light[2].astype(np.float32),
        glow=light[3].astype(np.float32),
        clouds=float(clouds),
        lamps_on=is_dark,
        fog=float(fog),
        air_kelvin=float(air),
        sky_kelvin=float(air - 42 + 30 * covered + rng.uniform(-3, 3)),
        ground_kelvin=float(rng.uniform(1.0, 3.0) if is_dark else rng.uniform(1.0, 4.0)),
        sun_factor=float(1.0 if kind is TimeOfDay.DAY else 0.0),
        wetness=float(rng.uniform(0.3, 1.0) if wet else 0.0),
    )


def vary_sky(climate: Climate, rng: np.random.Generator) -> Climate:
    """The same climate under a sky as they differ: clouds with structure, haze, brightness."""
    kind, noon = climate.time_of_day, climate.time_of_day is TimeOfDay.DAY
    cover = {TimeOfDay.DAY: (-0.3, 0.8), TimeOfDay.OVERCAST: (0.75, 1.4)}.get(kind, (-0.2, 1.1))
    grey = float(rng.uniform(0, 0.8))
    zenith = climate.zenith + grey * (climate.zenith.mean() * np.float32(1.3) - climate.zenith)
    hazy = rng.uniform() < 0.3
    fog = float(np.exp(rng.uniform(np.log(0.002), np.log(0.015))))
    return replace(
        climate,
        zenith=(zenith * np.float32(rng.uniform(0.7, 1.6))).astype(np.float32),
        horizon=(climate.horizon * np.float32(rng.uniform(0.8, 1.8))).astype(np.float32),
        sun=(climate.sun * np.float32(rng.uniform(0.6, 1.3))).astype(np.float32),
        clouds=float(rng.uniform(*cover)),
        fog=fog if hazy else min(climate.fog, 0.003),
        sky_kelvin=climate.air_kelvin - float(rng.uniform(8, 55)),
        sun_factor=climate.sun_factor if noon else float(rng.uniform(0, 0.3)),
        ground_kelvin=climate.ground_kelvin + float(rng.uniform(-2, 4)),
        cloud_octaves=int(rng.integers(3, 6)),
        cloud_shading=float(rng.uniform(0.1, 0.6)),
        cloud_shift=float(rng.uniform(0, 500)),
    )


def _elevation(rng: np.random.Generator, kind: TimeOfDay) -> float:
    """Height of the sun above the horizon, rad."""
    return {
        TimeOfDay.DAY: rng.uniform(0.3, 1.05),
        TimeOfDay.OVERCAST: rng.uniform(0.3, 1.0),
        TimeOfDay.DUSK: rng.uniform(-0.1, -0.02),
        TimeOfDay.NIGHT: -0.6,
    }[kind]


def _light(
    rng: np.random.Generator, kind: TimeOfDay, elevation: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Sun, zenith, horizon and glow, RGB each; a low sun is red."""
    low = np.clip(1 - elevation / 0.7, 0, 1) if kind is TimeOfDay.DAY else 0.0
    return {
        TimeOfDay.DAY: (
            np.array([1.0, 0.93 - 0.12 * low, 0.82 - 0.3 * low]) * rng.uniform(1.3, 1.7),
            np.array([0.12, 0.22, 0.47]),
            np.array([0.42, 0.51, 0.66]),
            np.array([1.2, 1.0, 0.7]),
        ),
        TimeOfDay.OVERCAST: (
            np.zeros(3),
            np.array([0.44, 0.47, 0.52]) * rng.uniform(0.6, 1.0),
            np.array([0.42, 0.44, 0.47]),
            np.full(3, 0.06),
        ),
        TimeOfDay.DUSK: (
            np.zeros(3),
            np.array([0.030, 0.044, 0.085]) * rng.uniform(0.6, 1.4),
            np.array([0.105, 0.072, 0.070]) * rng.uniform(0.6, 1.3),
            np.array([0.32, 0.13, 0.04]),
        ),
        TimeOfDay.NIGHT: (
            np.zeros(3),
            np.array([0.0016, 0.0020, 0.0034]) * rng.uniform(0.5, 1.6),
            np.array([0.0060, 0.0052, 0.0050]) * rng.uniform(0.5, 1.6),
            np.zeros(3),
        ),
    }[kind]


def _clouds(rng: np.random.Generator, kind: TimeOfDay) -> float:
    """Cloud cover; below 0 the sky is clear of them."""
    return {
        TimeOfDay.DAY: rng.uniform(-0.1, 0.35),
        TimeOfDay.OVERCAST: 1.0,
        TimeOfDay.DUSK: rng.uniform(0, 0.5),
        TimeOfDay.NIGHT: rng.uniform(0, 0.4),
    }[kind]
