"""Draws the paper's figures from a checkpoint and the data sets of a run file.

    python -m training.figures embeddings CHECKPOINT RUN.yaml --out fig5.png
    python -m training.figures features CHECKPOINT RUN.yaml --out fig8.png
    python -m training.figures panels [NAME=]CHECKPOINT ... RUN.yaml --out fig7.png [--corruptions]

Frames come from the run's val splits, evenly spread; `--split` names another one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import write_image
from segrgbx_core.base.overrides import CommandParser, add_set_option
from segrgbx_core.runtime.checkpoint import load_checkpoint
from segrgbx_core.runtime.devices import choose_device
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.figures.embedding_map import draw_map, map_embeddings
from training.figures.feature_maps import feature_sheet
from training.figures.inputs import open_figure_splits
from training.figures.panels import entries, panel_sheet, pick_failures, pick_frames
from training.stage2.config import SegmentationRun, read_run


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m training.figures", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    embeddings = jobs.add_parser("embeddings", help="t-SNE of MA-CLIP's embeddings (Fig. 5)")
    embeddings.add_argument("checkpoint", type=path_text)
    embeddings.add_argument(
        "--limit", type=int, default=200, help="frames per data set, 0 for all"
    )
    embeddings.add_argument("--seed", type=int, default=0, help="of t-SNE")
    features = jobs.add_parser("features", help="heat maps of the stages (Figs. 8 and 10)")
    features.add_argument("checkpoint", type=path_text)
    features.add_argument("--samples", type=int, default=1, help="frames per data set")
    panels = jobs.add_parser("panels", help="predictions beside the truth (Figs. 7 and 9)")
    panels.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT")
    panels.add_argument(
        "--samples", type=int, default=2, help="frames per data set, and per failure"
    )
    panels.add_argument(
        "--corruptions", action="store_true", help="frames by sensor failure, where readers say so"
    )
    for job in (embeddings, features, panels):
        job.add_argument("run", type=path_text, help="run file that names the data sets")
        job.add_argument("--out", type=path_text, required=True, help="picture to write")
        job.add_argument("--split", default="", help="instead of each data set's val split")
        job.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        add_set_option(job, "changes the run file")
    return parser.parse_args(arguments)


def draw(args: argparse.Namespace, config: SegmentationRun) -> str:
    """Draws one figure; returns what there is to say about it besides the picture."""
    splits = open_figure_splits(config.data, config.sensor, args.split)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.job == "panels":
        pick = pick_failures if args.corruptions else pick_frames
        columns, picks = entries(args.checkpoints), pick(splits, args.samples)
        write_image(out, panel_sheet(columns, picks, InferenceConfig(device=args.device)))
        return f"{len(picks)} frames"
    loaded = load_checkpoint(args.checkpoint, choose_device(args.device))
    if args.job == "features":
        write_image(out, feature_sheet(loaded, splits, args.samples))
        return f"{len(splits)} data sets"
    maps = map_embeddings(loaded, splits, args.limit, args.seed)
    return draw_map(maps, splits, loaded, out, args.seed)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _arguments(arguments)
    for name in ("samples", "limit"):
        if getattr(args, name, 1) < (0 if name == "limit" else 1):
            raise ConfigError(f"--{name} {getattr(args, name)}: too few frames")
    # Figures train nothing, so the run file need not say where a run would lie.
    text = draw(args, read_run(args.run, [*args.set, "run.out=."]))
    sys.stdout.write(f"{args.out}: {text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
