"""The captions that stage 1 learns from: written once, kept with where they come from, examined.

python -m training.captions config/train/ma_clip.yaml [--backend vlm --model FOLDER]

Captions every RGB image of the run's data sets (both splits) into the run's caption file, one JSON
object per line, and prints a report on the paper's two failures: words that do not exist and
captions that repeat. Samples that are already there are kept; the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.stage1.captioners import CAPTIONERS, PAPER_PROMPT, CaptionerConfig
from training.stage1.captions import WordList, caption_run, examine, read_captions
from training.stage1.config import read_pair_run


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "config", type=path_text, help="run file, such as config/train/ma_clip.yaml or clip.yaml"
    )
    add_set_option(parser, "changes one run option")
    parser.add_argument("--backend", default="labels", help=", ".join(CAPTIONERS))
    parser.add_argument(
        "--model", type=path_text, default="", help="folder or hub name; file: a JSONL file"
    )
    parser.add_argument("--revision", default="", help="hub revision of the model")
    parser.add_argument("--prompt", default=PAPER_PROMPT, help="what a vlm is asked")
    parser.add_argument("--max-new-tokens", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--download", action="store_true", help="fetch a hub name's model")
    parser.add_argument("--limit", type=int, default=0, help="samples per split, 0 for all")
    parser.add_argument(
        "--words", type=path_text, default="", help="file with one known word per line"
    )
    parser.add_argument("--report-only", action="store_true", help="examine the file as it is")
    return parser.parse_args(arguments)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _arguments(arguments)
    run = read_pair_run(args.config, args.set)
    if args.report_only:
        captions = read_captions(run.captions)
    else:
        options = {name: getattr(args, name) for name in CaptionerConfig.model_fields}
        config = from_mapping(CaptionerConfig, options, "captioner")
        captions = caption_run(run, config, args.limit)
    reports = examine(captions.values(), WordList(args.words).__contains__)
    print(f"{len(captions)} captions in {run.captions}")
    for report in reports:
        print("\n".join(report.lines()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
