"""`segrgbx-export`: a checkpoint as graphs for ONNX Runtime, TensorRT or AOTInductor.

Nothing is written before the exported form has answered like the checkpoint on images of several
sizes; where it does not, the message says where.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segrgbx_core.base.errors import CheckpointError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.export.graphs import FRAME_OUTPUTS, LOGITS_OUTPUT, Tracer, make_onnx, write_onnx
from segrgbx_core.export.parity import MIN_AGREEMENT, Labels, compare, compare_labels, make_cases
from segrgbx_core.model import Scene
from segrgbx_core.runtime.aot_package import AotEngine, write_package
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint, load_checkpoint
from segrgbx_core.runtime.engine import EagerEngine
from segrgbx_core.runtime.exported import (
    CONTRACT,
    FRAME,
    KEY,
    LOGITS,
    SCENE,
    contract_text,
    read_exported,
)
from segrgbx_core.runtime.exported_engine import feeds
from segrgbx_core.runtime.onnx_engine import OnnxEngine, open_session
from segrgbx_core.runtime.options import InferenceConfig, OnnxConfig

OPSET = 18
_CPU = torch.device("cpu")


def export_checkpoint(
    checkpoint: LoadedCheckpoint,
    folder: Path | str,
    modality: Modality | None = None,
    opset: int = OPSET,
    min_agreement: float = MIN_AGREEMENT,
    aot: bool = False,
) -> dict[str, Any]:
    """Writes the folder of an exported model, complete or not at all.

    Args:
        checkpoint: taken over: its head is folded, its LoRA merged where `modality` is given.
        folder: is made; must not exist.
        modality: the one to serve, its LoRA merged into the graph; None serves all.
        opset: of ONNX.
        min_agreement: least share of equal labels.
        aot: also write AOTInductor packages, for this machine's kind of processor.

    Returns:
        how the comparison came out, by exported form.

    Raises:
        CheckpointError: when the folder exists or the modality was not trained.
        ConfigError: when a library is missing or the network cannot be exported.
        ParityError: when the exported form answers otherwise.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"export: {folder} exists; name a new folder")
    if modality is not None:
        checkpoint.require(modality)
    # Plain memory order: it is the runtime's business, and autocast would end up in the graph.
    config = InferenceConfig(device="cpu", precision="fp32", channels_last=False)
    eager = EagerEngine(checkpoint, _CPU, "fp32", config, merge_for=modality)
    tracer = Tracer(eager.model, eager.ma_clip)
    text = contract_text(checkpoint.contract, modality)
    trained = checkpoint.contract.input
    served = [modality] if modality else list(checkpoint.contract.modalities)
    cases = make_cases((trained.height, trained.width), served)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        programs = (tracer.frame(), tracer.scene())
        _write_graphs(tracer, programs, made, opset, text)
        onnx = OnnxEngine(read_exported(made), OnnxConfig(provider="cpu"), _CPU)
        results = {"onnx": compare(eager, onnx, cases, "onnx", min_agreement)}
        labels = _frame_labels(made / FRAME)
        results["frame"] = compare_labels(eager, labels, cases, FRAME, min_agreement)
        if aot:
            write_package(programs, made)
            packaged = AotEngine(read_exported(made))
            results["aot"] = compare(eager, packaged, cases, "aot", min_agreement)
        shutil.move(made, folder)
    return {form: [asdict(case) for case in cases] for form, cases in results.items()}


def _write_graphs(
    tracer: Tracer, programs: Sequence[ExportedProgram], folder: Path, opset: int, text: str
) -> None:
    frame, scene = programs
    names = (["rgb", "x", *tracer.scene_names], [*FRAME_OUTPUTS, LOGITS_OUTPUT])
    graph = make_onnx(frame, names, opset)
    write_onnx(graph, folder / FRAME, FRAME_OUTPUTS, {KEY: text})
    write_onnx(graph, folder / LOGITS, [LOGITS_OUTPUT], {KEY: text})
    graph = make_onnx(scene, (["rgb", "x", "modality"], tracer.scene_names), opset)
    write_onnx(graph, folder / SCENE, tracer.scene_names, {KEY: text})
    (folder / CONTRACT).write_text(text + "\n", encoding="utf-8")


def _frame_labels(path: Path) -> Labels:
    session = open_session(path)

    def labels(batch: Batch, scene: Scene) -> Tensor:
        return torch.from_numpy(session.run(["labels"], feeds(batch, scene))[0])

    return labels


@command(OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a mistake that the user can cure."""
    chosen = _parser().parse_args(arguments)
    report = export_checkpoint(
        load_checkpoint(chosen.checkpoint),
        chosen.folder,
        Modality(chosen.modality) if chosen.modality else None,
        chosen.opset,
        chosen.min_agreement,
        chosen.aot,
    )
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for form, cases in report.items():
        for case in cases:
            agreement, gap = 100 * case["agreement"], case["logit_error"]
            print(f"{form}: {agreement:.3f} % of labels, logits within {gap:.1e}: {case['case']}")
    files = sorted(path.name for path in Path(chosen.folder).iterdir())
    print(f"{chosen.folder}: {', '.join(files)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segrgbx-export", description=__doc__.split("\n\n", 1)[0]
    )
    parser.add_argument("checkpoint", type=path_text, help=".safetensors file")
    parser.add_argument(
        "folder", type=path_text, help="to make; holds frame.onnx, scene.onnx and contract.json"
    )
    parser.add_argument(
        "--modality",
        choices=[modality.value for modality in MODALITIES],
        help="serve this one alone, faster (all that were trained)",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"of ONNX ({OPSET})")
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=MIN_AGREEMENT,
        help=f"least share of equal labels ({MIN_AGREEMENT})",
    )
    parser.add_argument(
        "--aot",
        action="store_true",
        help="also AOTInductor packages for this kind of processor; needs a C++ compiler",
    )
    parser.add_argument("--json", type=path_text, default="", help="file for the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
