"""What X is worth to a checkpoint, beside another one that sees RGB alone, on rendered scenes.

    python -m training.world.render --out DATA/test --seeds 22000:22060 --sensors all
    python -m training.worth_of_x CHECKPOINT RGB_ONLY --root DATA

Both answer the same frames; gains come with their standard error over the choice of scenes (paired
bootstrap). What chance in training does is not in it: there is one checkpoint of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.modality import MODALITIES, Modality
from training.data.datasets.synthetic import XSource
from training.experiments.benchmark_scores import Score, difference, score

_HEAD = (
    "| X | mIoU | RGB only | gain | X of another scene | classes | IoU | RGB only | gain |\n"
    "|---|---:|---:|---:|---:|---|---:|---:|---:|"
)


def row(modality: Modality, own: Score, other: Score, rgb: Score) -> str:
    """One line of the table.

    Args:
        modality: which X.
        own: with the sensor's own data.
        other: with that of another scene.
        rgb: of the checkpoint without X.
    """
    names = modality.facts.reveals
    gains = [difference([own], [rgb], names=which) for which in ((), names)]
    whole, few = (f"{gain.mean:+.1f} ± {gain.spread:.1f}" for gain in gains)
    cells = [str(modality), f"{own.miou:.1f}", f"{rgb.miou:.1f}", whole, f"{other.miou:.1f}"]
    cells += [", ".join(names), f"{own.classes_iou(names):.1f}", f"{rgb.classes_iou(names):.1f}"]
    return f"| {' | '.join([*cells, few])} |"


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("checkpoint", type=user_path, help="serves the modalities")
    add("rgb_only", type=user_path, help="is asked with a black X")
    add("--root", type=user_path, required=True, help="folder with the rendered split `test`")
    add("--device", default="auto", help="auto or cpu")
    options = parser.parse_args(argv)

    def asked(checkpoint: Path, modality: Modality, x: XSource) -> Score:
        return score(checkpoint, options.root, modality, x, options.device)

    rgb = asked(options.rgb_only, MODALITIES[0], XSource.NONE)
    rows = []
    for modality in tqdm(MODALITIES, unit="modality"):
        own, other = (asked(options.checkpoint, modality, x) for x in (XSource.OWN, XSource.OTHER))
        rows.append(row(modality, own, other, rgb))
    print("\n".join([f"{len(rgb.scenes)} rendered scenes, per cent:\n", _HEAD, *rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
