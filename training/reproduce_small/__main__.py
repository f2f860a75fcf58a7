"""The paper's experiment from end to end in small: from scenes to scores and figures.

python -m training.reproduce_small --out runs/reproduce_small

Renders scenes and writes them in the layouts of the five public data sets; then captions, MA-CLIP,
joint training, evaluation and figures, each by the project's own command, as one would run it on
the real data sets. The page that it writes lists the commands. The same call goes on where it
stopped. Synthetic throughout: its figures say that the path works and nothing about real roads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from training.engine.run import log_to_terminal
from training.reproduce_small.end_to_end import OUT, run_stages, stages, write_page


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=user_path, default=OUT)
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    args = parser.parse_args(argv)
    log_to_terminal()
    plan = stages(args.out, args.workers)
    args.out.mkdir(parents=True, exist_ok=True)
    page = write_page(plan, run_stages(plan, args.out), args.out)
    print(f"written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
