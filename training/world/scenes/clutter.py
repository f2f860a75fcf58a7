"""What stands about in real streets and has no class: all of it is void in the labels."""

from __future__ import annotations

import numpy as np

from segrgbx_core.labels.label_space import VOID
from training.world.scenes.scene import Scene
from training.world.scenes.street_traffic import KERB
from training.world.shapes.geometry import block, box, join, tube
from training.world.shapes.objects import oddment, placed
from training.world.surfaces.materials import Part, Pattern
from training.world.surfaces.street_plan import StreetPlan


class Clutter:
    """Adds fences, walls, bollards, wires and oddments to a street."""

    def __init__(self, scene: Scene, plan: StreetPlan, rng: np.random.Generator) -> None:
        self.scene, self.plan, self.rng = scene, plan, rng
        self.air = scene.climate.air_kelvin

    def add(self) -> None:
        """Draws and adds all of it."""
        rng, plan = self.rng, self.plan
        for side in (-1, 1):
            if rng.uniform() < 0.4:
                line = plan.road_half + 0.3 if rng.uniform() < 0.5 else plan.walk_outer - 0.1
                self._fence(side * line)
            if rng.uniform() < 0.3:
                self._wall(side)
            if rng.uniform() < 0.35:
                self._bollards(side)
        for _ in range(int(rng.integers(3, 20))):
            x, side = rng.uniform(4, 60), rng.choice([-1, 1])
            y = side * rng.uniform(plan.road_half + 0.3, plan.walk_outer + 1.5)
            things = oddment(self.scene.parts, rng, self.scene.climate, VOID)
            self.scene.statics += placed(things, (x, y, KERB), rng.uniform(0, 6))
        if rng.uniform() < 0.5:
            self._wires()

    def _part(self, pattern: Pattern = Pattern.PLAIN, low: float = 0.02) -> int:
        tone = self.rng.uniform(low, 0.5) * self.rng.uniform(0.85, 1.15, 3)
        kelvin = self.air + float(self.rng.normal(0, 1.5))
        return self.scene.parts.add(Part(VOID, tuple(tone), pattern, kelvin=kelvin))

    def _fence(self, y: float) -> None:
        """Posts and rails along the street, with gaps at crossings."""
        rng, part = self.rng, self._part()
        high, step = rng.uniform(0.6, 1.3), rng.uniform(1.2, 2.5)
        rails = np.linspace(0.25, 1.0, int(rng.integers(2, 6))) * high
        meshes = []
        for x in np.arange(rng.uniform(2, 20), rng.uniform(25, 70), step):
            if not self.plan.is_free(float(x), 1.0):
                continue
            meshes.append(box((x, y, high / 2), (0.06, 0.06, high)))
            meshes += [box((x + step / 2, y, z), (step, 0.03, 0.04)) for z in rails]
        if meshes:
            self.scene.statics += placed([(join(meshes), part)], (0, 0, KERB))

    def _wall(self, side: int) -> None:
        """A garden wall behind the sidewalk."""
        rng = self.rng
        high, y = rng.uniform(0.6, 2.4), self.plan.walk_outer + 0.1
        part = self._part(Pattern.BRICK if rng.uniform() < 0.6 else Pattern.PLAIN, 0.1)
        across = sorted((side * y, side * (y + 0.25)))
        for x in np.arange(rng.uniform(-5, 10), rng.uniform(30, 90), 6.0):
            if self.plan.is_free(float(x), 4.0):
                wall = block((x, x + 6.0), (across[0], across[1]), (0, high))
                self.scene.statics.append((wall, part))

    def _bollards(self, side: int) -> None:
        rng, part = self.rng, self._part()
        high, radius = rng.uniform(0.5, 1.1), rng.uniform(0.05, 0.15)
        y = side * (self.plan.road_half + 0.45)
        for x in np.arange(rng.uniform(2, 15), rng.uniform(20, 60), rng.uniform(1.2, 4)):
            if self.plan.is_free(float(x), 0.5):
                post = tube((x, y, 0), (x, y, high), radius, 8)
                self.scene.statics += placed([(post, part)], (0, 0, KERB))

    def _wires(self) -> None:
        """Wires over the street or along it."""
        rng, part, meshes = self.rng, self._part(), []
        reach = self.plan.walk_outer
        for _ in range(int(rng.integers(2, 9))):
            x, high = rng.uniform(3, 70), rng.uniform(5, 8)
            if rng.uniform() < 0.5:
                ends = (x, -reach, high), (x + rng.uniform(-6, 6), reach, high)
            else:
                y = rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * reach
                ends = (x, y, high), (x + rng.uniform(20, 40), y, high)
            meshes.append(tube(*ends, rng.uniform(0.01, 0.03), 4))
        self.scene.statics.append((join(meshes), part))
