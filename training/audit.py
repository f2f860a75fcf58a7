"""Looks a data set over before anything is trained on it.

    python -m training.audit mfnet /data/ir_seg_dataset --samples 50 --out audit/

Prints sizes, types, the coding that was decided, a histogram of the classes and what is wrong;
draws a sheet of samples. Exits with 1 when the data is wrong, with 2 when the question is.
"""

from __future__ import annotations

from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from training.data.audit import audit, open_splits, shared_ids, write_audits
from training.data.datasets import READERS


def _parser() -> CommandParser:
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    in_files = [name for name, opens in READERS.items() if hasattr(opens, "splits")]
    parser.add_argument("data_set", choices=in_files)
    parser.add_argument("root", type=user_path)
    parser.add_argument("--split", nargs="+", default=[], help="splits; all that are published")
    parser.add_argument("--modality", default="", help="the X; the data set's usual one")
    add_set_option(parser, "options of the data set")
    parser.add_argument("--samples", type=int, default=100, help="read per split; 0 for all")
    parser.add_argument(
        "--out", type=user_path, default=None, help="folder for pictures and the report"
    )
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = _parser().parse_args(arguments)
    options = apply_overrides({}, args.set)
    readers, problems = open_splits(args.data_set, args.root, args.split, args.modality, options)
    audits = [audit(reader, args.samples, progress=True) for reader in readers]
    problems += shared_ids(audits)
    texts = [one.to_text() for one in audits]
    texts.append("".join(f"problem: {text}\n" for text in problems))
    report = "\n".join(text for text in texts if text)
    print(report, end="")
    if args.out:
        name = audits[0].reader.native if audits else args.data_set
        write_audits(args.out, name, audits, report)
    return 1 if problems or any(one.problems for one in audits) else 0


if __name__ == "__main__":
    raise SystemExit(main())
