"""Draws a sheet of rendered scenes: RGB, the five X images as a model sees them, and the labels.

python -m training.world.gallery --out docs/images/world.png
python -m training.world.gallery --out FILE --seeds 600:606 --set variation=real
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.base.overrides import CommandParser, add_set_option
from segrgbx_core.labels.overlay import colourise, contact_sheet, preview
from segrgbx_core.labels.tables import NYU, SYNTHETIC_STREET
from segrgbx_core.sensors import encode
from training.world.config import Corruption, Family, Light, WorldConfig
from training.world.records import RECORD_SENSOR, Record, record_sample
from training.world.render import parse_seeds, world_config
from training.world.world import World


@dataclass(frozen=True)
class Shot:
    """One row of the sheet."""

    caption: str
    seed: int
    time_s: float
    config: WorldConfig


OVER_EXPOSED = WorldConfig(light=Light.DUSK, corruption=Corruption.OVER_EXPOSURE)
SHOTS = (
    Shot("night", 20_024, 6.0, WorldConfig(light=Light.NIGHT, speed_mps=3.5)),
    Shot("wet day", 20_058, 1.6, WorldConfig(light=Light.DAY, speed_mps=5.0)),
    Shot("over-exposed", 20_056, 1.0, OVER_EXPOSED),
    Shot("overcast, walking", 20_012, 0.4, WorldConfig(light=Light.OVERCAST)),
    Shot("room", 20_011, 1.0, WorldConfig(family=Family.INDOOR)),
)  # fmt: skip


def x_pictures(record: Record) -> list[NDArray[np.uint8]]:
    """The X image of every modality, with the encoders' defaults."""
    samples = [record_sample(record, modality) for modality in MODALITIES]
    return [preview(encode(sample, None, RECORD_SENSOR)) for sample in samples]


def sheet(shots: Sequence[Shot] = SHOTS, cell_width: int = 180) -> NDArray[np.uint8]:
    """The drawn sheet, uint8 (H, W, 3)."""
    spaces = {space.name: space for space in (SYNTHETIC_STREET, NYU)}
    rows = []
    for shot in shots:
        record = World(shot.seed, shot.config).record(shot.time_s, MODALITIES)
        palette = spaces[record.label_space].palette_array()
        rows.append([record.rgb, *x_pictures(record), colourise(record.labels, palette)])
    titles = ["RGB", *(modality.facts.title for modality in MODALITIES), "Labels"]
    return contact_sheet(
        rows,
        titles,
        [shot.caption for shot in shots],
        heading="One world, five complementary sensors",
        note="Synthetic: rendered by training/world, no real camera",
        cell_width=cell_width,
    )


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = CommandParser(description="Draw a sheet of rendered scenes.")
    parser.add_argument("--out", type=user_path, required=True, help="picture file")
    parser.add_argument("--seeds", help="scenes, first:last+1 or a comma list; none: a chosen set")
    add_set_option(parser, "world option of the scenes of --seeds")
    options = parser.parse_args(argv)
    shots: Sequence[Shot] = SHOTS
    if options.seeds:
        config = world_config((240, 320), options.set)
        shots = [Shot(f"seed {seed}", seed, 1.0, config) for seed in parse_seeds(options.seeds)]
    elif options.set:
        raise ConfigError("--set: belongs to --seeds; the chosen scenes have their own options")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_image(options.out, sheet(shots))
    return 0


if __name__ == "__main__":
    sys.exit(main())
