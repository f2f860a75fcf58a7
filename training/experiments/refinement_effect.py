"""What the DSRM of a checkpoint adds to the features of stage 4, on one page.

    python -m training.experiments.refinement_effect CHECKPOINT ... --reader NAME --root DATA

A refinement is small beside what it refines, and another one for every image. What is large and
the same for all images is a bias that the next layer could hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.overrides import CommandParser
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.base.tables import markdown_table, number
from segrgbx_core.model.segrgbx import SegRGBX
from segrgbx_core.runtime.checkpoint import load_checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.experiments.data_options import add_data_options, open_pools


@dataclass(frozen=True)
class RefinementEffect:
    """What a DSRM adds, over some images of RGB and of X.

    Attributes:
        size: norm of what it adds over the norm of what enters it, mean over images.
        shared: energy of the mean over images of what it adds, over the mean energy, in [0, 1].
        images: how many.
    """

    size: float
    shared: float
    images: int


@torch.inference_mode()
def refinement_effect(segmenter: Segmenter, samples: Iterable[RgbxSample]) -> RefinementEffect:
    """Runs samples, whose stage-4 maps must have one size, and compares before and after.

    Raises:
        ConfigError: when the checkpoint has no DSRM.
    """
    model = getattr(segmenter.engine, "model", None)
    if not isinstance(model, SegRGBX) or not len(model.refine.blocks):
        raise ConfigError(f"checkpoint {segmenter.checkpoint.name}: has no DSRM")
    ratios: list[Tensor] = []
    changes: list[Tensor] = []

    def keep(_: object, given: tuple[Tensor, ...], refined: Tensor) -> None:
        change = (refined - given[0]).flatten(1).double()
        ratios.append(change.norm(dim=1) / given[0].flatten(1).double().norm(dim=1))
        changes.append(change)

    handle = model.refine.register_forward_hook(keep)
    try:
        for sample in samples:
            segmenter.predict([sample])
    finally:
        handle.remove()
    # RGB and X are streams of their own: what is the same for all is sought in each.
    every = torch.stack(changes)  # (samples, 2, values)
    shared = every.mean(dim=0).square().sum() / every.square().sum(dim=(1, 2)).mean()
    return RefinementEffect(torch.cat(ratios).mean().item(), shared.item(), 2 * len(every))


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _parser().parse_args(arguments)
    pools = open_pools(args, args.split)
    rows = []
    for path in args.checkpoint:
        for split in (split for pool in pools for split in pool):
            reader = split.reader
            segmenter = Segmenter(
                load_checkpoint(path), InferenceConfig(device=args.device), split.sensors
            )
            count = min(args.limit or len(reader), len(reader))
            effect = refinement_effect(segmenter, (reader[i].sample for i in range(count)))
            rows.append(
                [
                    str(Path(path).name),
                    str(reader.modality),
                    str(effect.images),
                    number(effect.size, 2),
                    number(effect.shared, 2),
                ]
            )
    titles = ["checkpoint", "X", "images", "size of what it adds", "share that all images have"]
    sys.stdout.write(f"{markdown_table(titles, rows, 'llrrr')}\n")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="+", type=user_path)
    add_data_options(parser)
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
