"""People with a gait, and the mannequins that look like them but are cold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.rays.vectors import Floats
from training.world.shapes.geometry import Mesh, capsule, ellipsoid, join, tube, vector
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Part, PartTable, Pattern, street_id

SKINS = ((0.52, 0.33, 0.24), (0.40, 0.24, 0.16), (0.22, 0.12, 0.07), (0.11, 0.06, 0.04))
CLOTHS = (
    (0.03, 0.03, 0.04), (0.04, 0.06, 0.15), (0.30, 0.04, 0.04), (0.42, 0.40, 0.36),
    (0.10, 0.14, 0.06), (0.55, 0.42, 0.07), (0.14, 0.14, 0.15), (0.10, 0.22, 0.36),
    (0.36, 0.16, 0.28), (0.22, 0.13, 0.07),
)  # fmt: skip
SKIN_KELVIN = 306.5


@dataclass(frozen=True)
class Figure:
    """One person's looks: part ids and proportions; `pieces` gives the body in mid-stride."""

    skin: int
    hair: int
    top: int
    legs: int
    shoes: int
    bag: int
    height: float
    build: float
    coat: float
    has_bag: bool
    long_sleeves: bool

    def pieces(self, phase: float, swing: float, seated: bool = False) -> Pieces:
        """The body facing along x, feet near z = 0.

        Args:
            phase: moment of the stride in rad.
            swing: 0 standing, 1 a brisk walk.
            seated: riding a bicycle; the legs pedal with `phase`.
        """
        scale, wide = self.height / 1.75, self.build
        lean = 0.28 if seated else 0.04 * swing
        hip = vector(0.0, 0.0, 0.90)
        chest = hip + vector(0.46 * np.sin(lean), 0, 0.46 * np.cos(lean))
        head = chest + vector(0.06 * np.sin(lean) + 0.02, 0, 0.30)
        legs, shoes = self._legs(hip, phase, swing, seated)
        sleeves, hands = self._arms(chest, phase, swing, seated)
        torso = self._torso(hip, chest, seated)
        hips = [ellipsoid(hip, (0.14 * wide, 0.18 * wide, 0.13))]
        face = [ellipsoid(head, (0.098, 0.082, 0.125)), capsule(chest, head, 0.055, sectors=6)]
        hair = [ellipsoid(head + vector(-0.018, 0, 0.022), (0.104, 0.092, 0.12))]
        bare = hands if self.long_sleeves else hands + sleeves[2:]
        covered = sleeves if self.long_sleeves else sleeves[:2]
        made: Pieces = [
            (join(torso + covered), self.top),
            (join(hips + legs), self.legs),
            (join(shoes), self.shoes),
            (join(face + bare), self.skin),
            (join(hair), self.hair),
        ]
        if self.has_bag:
            made.append((ellipsoid(chest + vector(-0.2, 0, -0.12), (0.13, 0.17, 0.24)), self.bag))
        return [(mesh.scaled((scale, scale, scale)), part) for mesh, part in made]

    def _torso(self, hip: Floats, chest: Floats, seated: bool) -> list[Mesh]:
        wide = self.build
        torso = [
            capsule(
                hip + vector(0, side * 0.06 * wide, 0.04),
                chest + vector(0, side * 0.08 * wide, -0.05),
                0.125 * wide,
                0.13 * wide,
            )
            for side in (-1, 1)
        ]
        shoulder = vector(0, 0.15 * wide, 0)
        raised = chest + vector(0, 0, 0.02)
        torso.append(capsule(raised - shoulder, raised + shoulder, 0.075, sectors=6))
        if self.coat > 0 and not seated:
            hem, waist = hip - vector(0, 0, self.coat), hip + vector(0, 0, 0.12)
            torso.append(tube(hem, waist, 0.21 * wide, 9, 0.16 * wide))
        return torso

    def _legs(
        self, hip: Floats, phase: float, swing: float, seated: bool
    ) -> tuple[list[Mesh], list[Mesh]]:
        legs, shoes = [], []
        for side, turn in ((-1, phase), (1, phase + np.pi)):
            start = hip + vector(0, 0.09 * side * self.build, 0)
            if seated:
                foot = np.array(
                    [0.12 + 0.17 * np.cos(turn), 0.1 * side, 0.36 + 0.17 * np.sin(turn)]
                )
                knee = (start + foot) / 2 + vector(0.24, 0, 0.1)
            else:
                thigh = 0.50 * swing * np.sin(turn)
                bend = thigh - 0.95 * swing * max(0.0, np.cos(turn)) * 0.75 - 0.06
                knee = start + 0.42 * vector(np.sin(thigh), 0, -np.cos(thigh))
                foot = knee + 0.42 * vector(np.sin(bend), 0, -np.cos(bend))
            legs.append(capsule(start, knee, 0.085 * self.build, 0.062))
            legs.append(capsule(knee, foot, 0.060, 0.045))
            shoes.append(
                capsule(
                    foot + vector(-0.03, 0, -0.025),
                    foot + vector(0.15, 0, -0.03),
                    0.05,
                    0.042,
                    sectors=6,
                )
            )
        return legs, shoes

    def _arms(
        self, chest: Floats, phase: float, swing: float, seated: bool
    ) -> tuple[list[Mesh], list[Mesh]]:
        upper, lower, hands = [], [], []
        for side, turn in ((-1, phase + np.pi), (1, phase)):
            shoulder = chest + vector(0, 0.2 * side * self.build, 0.0)
            if seated:
                elbow = shoulder + vector(0.2, 0.04 * side, -0.2)
                hand = vector(0.47, 0.24 * side, 1.0)
            else:
                angle = 0.45 * swing * np.sin(turn)
                elbow = shoulder + 0.29 * vector(np.sin(angle), 0.08 * side, -np.cos(angle))
                fore = angle + 0.15 + 0.3 * swing
                hand = elbow + 0.25 * vector(np.sin(fore), -0.04 * side, -np.cos(fore))
            upper.append(capsule(shoulder, elbow, 0.056, 0.046, sectors=6))
            lower.append(capsule(elbow, hand, 0.045, 0.036, sectors=6))
            hands.append(ellipsoid(hand, (0.05, 0.04, 0.06), 4, 6))
        return upper + lower, hands


def draw_figure(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    instance: int,
    alive: bool = True,
    label: int | None = None,
) -> Figure:
    """A random person, or a mannequin with the same looks at air temperature.

    Args:
        parts: table that the body's parts are added to.
        rng: draws the looks.
        climate: decides clothing and temperatures.
        instance: object id.
        alive: False for a mannequin.
        label: native class id; None for the street's person or static object.
    """
    air = climate.air_kelvin
    if label is None:
        label = street_id("person" if alive else "static object")
    warmth = 1.0 if alive else 0.0

    def part(colour: tuple[float, float, float], share: float) -> int:
        kelvin = air + warmth * share * (SKIN_KELVIN - air)
        return parts.add(
            Part(
                label,
                colour,
                Pattern.CLOTH,
                kelvin=kelvin,
                sun_kelvin=2.0,
                emissivity=0.975,
                instance=instance,
            )
        )

    skin = SKINS[int(rng.integers(len(SKINS)))]
    top = CLOTHS[int(rng.integers(len(CLOTHS)))]
    legs = CLOTHS[int(rng.integers(len(CLOTHS)))]
    thick = float(np.clip((298 - air) / 25, 0.1, 0.9))
    return Figure(
        skin=part(skin, 0.93),
        hair=part((0.03, 0.02, 0.015), 0.62),
        top=part(top, 0.62 - 0.25 * thick + rng.uniform(-0.06, 0.06)),
        legs=part(legs, 0.58 - 0.15 * thick + rng.uniform(-0.06, 0.06)),
        shoes=part((0.03, 0.025, 0.02), 0.3),
        bag=part(CLOTHS[int(rng.integers(len(CLOTHS)))], 0.08),
        height=float(rng.uniform(1.5, 1.95)),
        build=float(rng.uniform(0.92, 1.22)),
        coat=float(rng.choice([0.0, 0.0, 0.35, 0.45])),
        has_bag=bool(rng.uniform() < 0.3),
        long_sleeves=bool(thick > 0.3 or rng.uniform() < 0.4),
    )
