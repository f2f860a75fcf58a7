"""How fast one worker reads, prepares and augments the samples of a data set.

    python -m training.loader_bench mfnet /data/ir_seg_dataset
    python -m training.loader_bench --made 12    # all five, on made files of the published size
    python -m training.loader_bench --made 12 --profile 6    # and where the time goes

Times are CPU seconds of one process, so that a busy machine does not change them much. Made
pictures have the spectrum of natural ones: what cannot be compressed takes longer to decode.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from training.data.audit import open_splits
from training.data.loader_bench import HEADER, make_all, measure, profile


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_set", nargs="?", default="")
    parser.add_argument("root", nargs="?", default=".", type=user_path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--crop", type=int, default=512, help="size of a training view")
    parser.add_argument("--profile", type=int, default=0, help="name this many functions too")
    parser.add_argument("--made", type=int, default=0, help="make this many samples of each")
    args = parser.parse_args(arguments)
    if not args.made and not args.data_set:
        parser.error("name a data set and its root, or --made")
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[tuple[str, Path, dict[str, Any]]]
        jobs = [(args.data_set, args.root, {})]
        if args.made:
            sets = make_all(Path(folder), args.made)
            jobs = [(name, Path(folder) / name, options) for name, options in sets.items()]
            jobs.append(("zju_rgbp", Path(folder) / "zju_rgbp", {"half_resolution": True}))
        print(HEADER)
        for name, root, options in jobs:
            readers, problems = open_splits(name, root, (args.split,), "", options)
            if problems:
                print(problems[0], file=sys.stderr)
                return 1
            print(measure(readers[0], args.samples, args.crop).row(), flush=True)
            if args.profile:
                sizes = args.samples, args.crop, args.profile
                for place, spent in profile(readers[0], *sizes):
                    print(f"    {spent:7.1f} ms  {place}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
