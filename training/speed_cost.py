"""Accuracy against latency: one checkpoint in many variants on the same labelled frames.

    python -m training.speed_cost CHECKPOINT --root DATA --split val --modality thermal --out OUT

Frames of a scene go through every form in their order, as a vehicle's stream would, and the forms
take turns frame by frame, so that whatever else the machine does falls on all of them alike.
Consecutive frames matter for `scene.refresh_every`; render such with
`python -m training.world.render --interval 0.1 --frames-per-scene 20`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text, user_path
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from training.data.datasets import READERS, open_reader
from training.experiments.accuracy_vs_latency import (
    SCALES,
    Comparison,
    below_limit,
    to_markdown,
    variants,
    write_report,
)


@command(OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 when `--check` finds too many other labels, 2 for a user error."""
    args = _parser().parse_args(arguments)
    options = apply_overrides({}, args.set)
    reader = open_reader(args.reader, args.root, args.split, Modality(args.modality), options)
    comparison = Comparison(
        args.checkpoint, reader, args.split, args.exported, args.device, args.scenes, args.frames
    )
    report = comparison.report(args.scales, args.only, args.compile)
    sys.stdout.write(to_markdown(report))
    if args.out:
        write_report(report, Path(args.out))
    return 1 if args.check and below_limit(report) else 0


def _parser() -> CommandParser:
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=user_path)
    parser.add_argument("--reader", default="synthetic_street", choices=sorted(READERS))
    parser.add_argument("--root", type=path_text, required=True, help="folder of the data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--modality", default="thermal", choices=[m.value for m in MODALITIES])
    add_set_option(parser, "options of the data set")
    parser.add_argument(
        "--exported",
        type=path_text,
        default="",
        help="folder of segrgbx-export --modality, for its backends",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scenes", type=int, default=0, help="scenes to take, 0 for all")
    parser.add_argument("--frames", type=int, default=0, help="frames of each, 0 for all")
    parser.add_argument(
        "--scales", nargs="+", type=float, default=SCALES, help="of the trained input size"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=list(variants((64, 64))),
        help="not all groups",
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile, slow to start")
    parser.add_argument(
        "--out", type=path_text, default="", help="folder for speed_cost.md, .json and .png"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail where a precision or backend changes more labels than an export may",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
