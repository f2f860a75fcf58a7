"""Lays our results beside the paper's tables and the literature, on one page.

    python -m training.report REPORT/report.json ... --out FOLDER
    python -m training.report REPORT/report.json --bench compare.json --out FOLDER

Takes what `training.evaluate` wrote, of one data set or of a run, and for Table III what
`segrgbx-bench --compare --json` wrote. Every row says whether it is the paper's, of the literature
or ours; ours point to a list with split, size, reading and checkpoint. Results on rendered scenes
and of untrained checkpoints never enter a table with real data sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from training.eval.published import ComparisonPage, read_bench, read_published, read_results


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "reports", type=path_text, nargs="*", help="report.json files of training.evaluate"
    )
    parser.add_argument(
        "--bench", type=path_text, default="", help="JSON file of segrgbx-bench --compare"
    )
    parser.add_argument("--out", type=path_text, default="", help="folder for results.md")
    args = parser.parse_args(arguments)
    bench = read_bench(Path(args.bench)) if args.bench else None
    page = ComparisonPage.of(read_published(), read_results(args.reports), bench)
    text = page.to_markdown()
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
