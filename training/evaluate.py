"""Scores a checkpoint on data sets, through the same `Segmenter` that a vehicle runs.

    python -m training.evaluate CHECKPOINT --reader mfnet --root DATA --split test --out REPORT
    python -m training.evaluate CHECKPOINT --run RUN.yaml --split published --out REPORT

The second form scores all data sets of a run file and adds the joint table. Several `--root` of
one data set are pooled into one matrix, such as the real and the synthetic part of UrbanLF.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.overrides import CommandParser
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.eval.report import JointReport
from training.eval.scoring import EvalOptions, evaluate_splits
from training.eval.test_time_augmentation import Fit, TtaConfig
from training.experiments.data_options import add_data_options, open_pools


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _parser().parse_args(arguments)
    pools = open_pools(args, args.split)
    config = _inference(args)
    options = EvalOptions(
        augmentation=_augmentation(args),
        space=args.space,
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
        progress=True,
    )
    reports = [evaluate_splits(args.checkpoint, pool, config, options) for pool in pools]
    report = JointReport(tuple(reports)) if args.run else reports[0]
    sys.stdout.write(report.to_markdown())
    if args.out:
        report.write(Path(args.out))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=path_text)
    add_data_options(parser)
    views = parser.add_argument_group("views")
    views.add_argument(
        "--size", type=image_size, metavar="WxH", help="model's input, as trained if left out"
    )
    views.add_argument(
        "--fit", default=Fit.WHOLE.value, help=TtaConfig.model_fields["fit"].description
    )
    views.add_argument("--scales", nargs="+", type=float, default=[1.0])
    views.add_argument("--flip", action="store_true", help="average with the mirrored frame")
    views.add_argument("--stride", type=float, help="step between windows, share of a window")
    views.add_argument(
        "--space", default="", help="unified, or empty for the data set's own classes"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto")
    machine.add_argument("--precision", default="auto")
    machine.add_argument("--batch-size", type=int, default=EvalOptions.batch_size)
    machine.add_argument("--workers", type=int, default=2, help="threads that read ahead")
    parser.add_argument(
        "--out", type=path_text, default="", help="folder for report.md, report.json, pictures"
    )
    return parser


def _inference(args: argparse.Namespace) -> InferenceConfig:
    height, width = args.size or (0, 0)
    return from_mapping(
        InferenceConfig,
        {
            "device": args.device,
            "precision": args.precision,
            "input_height": height,
            "input_width": width,
        },
        "command line",
    )


def _augmentation(args: argparse.Namespace) -> TtaConfig:
    views: dict[str, Any] = {"fit": args.fit, "scales": args.scales, "flip": args.flip}
    if args.stride is not None:
        if args.fit != Fit.WINDOW.value:
            raise ConfigError("--stride has no effect without --fit window")
        views["stride"] = args.stride
    if args.size and args.fit == Fit.NATIVE.value:
        raise ConfigError("--size has no effect with --fit native; leave one out")
    return from_mapping(TtaConfig, views, "command line")


if __name__ == "__main__":
    raise SystemExit(main())
