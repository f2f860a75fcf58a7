"""The twin test: does a trained pipeline use its X input? With one generalist model.

python -m training.twin_test --out runs/twins

Renders objects whose class RGB does not show (`training.world.twins`), trains one model for
all five modalities and one that never sees X, and scores both on unseen pictures. Where only
the first distinguishes the classes, X reaches the answer and nothing of the class leaks into RGB.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.experiments.trials import train_in_parallel
from training.experiments.twin_test import (
    judge,
    render_twins,
    to_markdown,
    twin_runs,
    write_verdicts,
)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 when a modality fails, 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=user_path, default=Path("runs/twins"))
    parser.add_argument("--train", type=int, default=300, help="pictures per modality to learn")
    parser.add_argument("--val", type=int, default=150, help="pictures per modality to score")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    add_set_option(parser, "changes the run")
    args = parser.parse_args(argv)
    counts = {"train": args.train, "val": args.val}
    roots = render_twins(args.out / "data", counts, args.workers)
    runs = twin_runs(roots, args.out, args.set)
    verdicts = judge(train_in_parallel(runs, args.workers), roots)
    print(to_markdown(verdicts))
    write_verdicts(verdicts, args.out)
    return 0 if all(one.is_passed for one in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
