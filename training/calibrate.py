"""Makes a checkpoint's confidences probabilities: one temperature per X sensor, fitted on val.

    python -m training.calibrate CHECKPOINT --reader folder --root DATA --check-split test \
        --out calibrated.safetensors --report REPORT
    python -m training.calibrate CHECKPOINT --run RUN.yaml --out calibrated.safetensors

Labels stay the same. The temperatures are stored in the new checkpoint's contract; node, replay
and exported models apply them. The expected calibration error (ECE) is printed before and after,
on the split that was fitted to and, better, on one that was not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import CheckpointError, ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser
from segrgbx_core.base.tables import markdown_table, number, percent
from segrgbx_core.model.tensor_files import read_tensors, write_tensors
from segrgbx_core.runtime.checkpoint import contract_header, read_contract
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.eval.calibration import (
    LabelledLogits,
    Reliability,
    draw_reliability,
    fit_temperature,
    labelled_logits,
    reliability,
)
from training.eval.eval_data import EvalSplit
from training.experiments.data_options import add_data_options, open_pools


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _parser().parse_args(arguments)
    if Path(args.out).resolve() == Path(args.checkpoint).resolve():
        raise ConfigError(f"--out {args.out}: is the checkpoint itself; name another file")
    pools = open_pools(args, args.split)
    checks = open_pools(args, args.check_split) if args.check_split else []
    folder = Path(args.report) if args.report else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    results = [_fit(args, pool, folder) for pool in pools]
    temperatures = {entry["modality"]: entry["temperature"] for entry in results}
    if len(temperatures) < len(results):
        raise ConfigError(
            "several data sets have one modality, which has one temperature; name one of them, or "
            "pool folders of one data set by several --root"
        )
    results += [_check(args, pool, temperatures, folder) for pool in checks]
    page = _page(results)
    sys.stdout.write(page)
    if folder:
        (folder / "calibration.md").write_text(page, encoding="utf-8")
        text = json.dumps(results, indent=1, allow_nan=False)
        (folder / "calibration.json").write_text(f"{text}\n", encoding="utf-8")
    _write(args.checkpoint, args.out, temperatures, results)
    return 0


def _fit(args: argparse.Namespace, pool: Sequence[EvalSplit], folder: Path | None) -> Any:
    data = _logits(args, pool)
    return _entry(data, pool, fit_temperature(data), "fitted", folder)


def _check(
    args: argparse.Namespace,
    pool: Sequence[EvalSplit],
    temperatures: dict[str, float],
    folder: Path | None,
) -> Any:
    temperature = temperatures[pool[0].reader.modality.value]
    return _entry(_logits(args, pool), pool, temperature, "not fitted", folder)


def _logits(args: argparse.Namespace, pool: Sequence[EvalSplit]) -> LabelledLogits:
    config = InferenceConfig(device=args.device)
    sampled = {"space": args.space, "pixels": args.pixels, "limit": args.limit}
    return labelled_logits(args.checkpoint, pool, config, **sampled)


def _entry(
    data: LabelledLogits,
    pool: Sequence[EvalSplit],
    temperature: float,
    role: str,
    folder: Path | None,
) -> dict[str, Any]:
    """What is reported of one data set; draws its picture."""
    before, after = reliability(data), reliability(data, temperature)
    reader, split = pool[0].reader, " + ".join(dict.fromkeys(one.split for one in pool))
    name = f"{reader.native} {reader.modality}"
    if folder:
        picture = folder / f"{name} {split}.png".replace(" ", "_")
        draw_reliability(before, after, picture, f"{name}, {split}: temperature {temperature:.3f}")
    return {
        "data": reader.native,
        "modality": reader.modality.value,
        "split": split,
        "role": role,
        "synthetic": any(one.is_synthetic for one in pool),
        "pixels": len(data.labels),
        "temperature": temperature,
        "accuracy": float((data.logits.argmax(dim=1) == data.labels).double().mean()),
        "before": _figures(before),
        "after": _figures(after),
    }


def _figures(one: Reliability) -> dict[str, float]:
    mean = float((one.share[one.share > 0] * one.confidence[one.share > 0]).sum())
    return {"ece": one.ece, "nll": one.nll, "confidence": mean}


def _page(results: Sequence[dict[str, Any]]) -> str:
    header = ("data", "split", "pixels", "temperature", "right %", "sure % before", "after")
    rows = [
        (
            f"{one['data']} {one['modality']}" + (" (synthetic)" if one["synthetic"] else ""),
            f"{one['split']}, {one['role']}",
            one["pixels"],
            number(one["temperature"], 3),
            percent(one["accuracy"]),
            percent(one["before"]["confidence"]),
            percent(one["after"]["confidence"]),
            *(percent(one[when]["ece"]) for when in ("before", "after")),
            *(number(one[when]["nll"], 4) for when in ("before", "after")),
        )
        for one in results
    ]
    titles = (*header, "ECE % before", "after", "NLL before", "after")
    return f"{markdown_table(titles, rows, 'llr')}\n"


def _write(
    source: str, target: str, temperatures: dict[str, float], results: Sequence[dict[str, Any]]
) -> None:
    """Writes the same weights under a contract with temperatures."""
    contract = read_contract(source)
    if unknown := set(temperatures) - {one.value for one in contract.modalities}:
        raise CheckpointError(f"checkpoint {source}: was not trained for {', '.join(unknown)}")
    temperatures = {**contract.temperatures, **temperatures}
    provenance = {**contract.provenance, "calibration": list(results)}
    changed = contract.model_copy(update={"temperatures": temperatures, "provenance": provenance})
    tensors, _ = read_tensors(source)
    write_tensors(target, tensors, contract_header(changed))
    sys.stdout.write(f"written: {target}\n")


def _parser() -> CommandParser:
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=path_text)
    add_data_options(parser)
    parser.add_argument(
        "--check-split", default="", help="a split that is not fitted to, to measure on besides"
    )
    parser.add_argument("--pixels", type=int, default=2000, help="labelled pixels per frame")
    parser.add_argument(
        "--space", default="", help="unified, or empty for the data set's own classes"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=path_text, required=True, help="the new checkpoint")
    parser.add_argument("--report", type=path_text, default="", help="folder for tables, pictures")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
