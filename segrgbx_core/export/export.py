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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segrgbx_core.base.errors import CheckpointError, ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.modality import Modality
from segrgbx_core.export.graphs import FRAME_OUTPUTS, LOGITS_OUTPUT, Tracer, make_onnx, write_onnx
from segrgbx_core.export.parity import (
    MIN_AGREEMENT,
    Answer,
    Case,
    Parity,
    answer,
    compare,
    compare_labels,
    make_cases,
)
from segrgbx_core.model import Scene
from segrgbx_core.model.tensor_files import file_hash
from segrgbx_core.runtime.backends import OnnxGraph, open_exported
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint, load_checkpoint
from segrgbx_core.runtime.engines import EagerEngine
from segrgbx_core.runtime.exported import (
    AOT_FRAME,
    AOT_SCENE,
    CONTRACT,
    FRAME,
    KEY,
    LOGITS,
    SCENE,
    ExportedEngine,
    contract_mark,
    folder_beside,
    frame_inputs,
    read_exported,
    write_manifest,
)
from segrgbx_core.runtime.options import Backend, InferenceConfig, OnnxConfig

OPSET = 18
_CPU = torch.device("cpu")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportConfig:
    """Choices of an export.

    Attributes:
        modality: the one to serve, its LoRA merged into the graph; None serves all.
        opset: of ONNX.
        min_agreement: least share of equal labels.
        aot: also write AOTInductor packages, for this machine's kind of processor.
        fixed_size: fix height and width at the contract's input size; faster to export.
        simplify: as in `make_onnx`.
        replace: an exported model that has the folder's name is replaced.
    """

    modality: Modality | None = None
    opset: int = OPSET
    min_agreement: float = MIN_AGREEMENT
    aot: bool = False
    fixed_size: bool = False
    simplify: bool = True
    replace: bool = False

    def source(self, checkpoint_hash: str) -> dict[str, Any]:
        """As `ExportedModel.source`, for a checkpoint's SHA-256."""
        options = {"opset": self.opset, "fixed_size": self.fixed_size, "aot": self.aot}
        return {"checkpoint": checkpoint_hash, **options}


def export_checkpoint(
    checkpoint: LoadedCheckpoint,
    folder: Path | str,
    config: ExportConfig | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Writes the folder of an exported model, complete or not at all.

    Args:
        checkpoint: taken over: its head is folded, its LoRA merged where a modality is chosen.
        folder: is created; must not exist, unless `config.replace` allows an exported model.
        config: choices.
        progress: called with a line of text before every step.

    Returns:
        results of the comparison, by exported form.

    Raises:
        CheckpointError: when the folder exists or the modality was not trained.
        ConfigError: when a library is missing or the network cannot be exported.
        ParityError: when the exported form answers otherwise.
    """
    folder, config = Path(folder), config or ExportConfig()
    if folder.exists() and not (config.replace and (folder / CONTRACT).is_file()):
        raise CheckpointError(f"export: {folder} exists; name a new folder")
    contract, modality = checkpoint.contract, config.modality
    if modality is not None:
        checkpoint.require(modality)
    # Plain memory order: it is the runtime's business, and autocast would end up in the graph.
    plain = InferenceConfig(device="cpu", precision="fp32", channels_last=False)
    eager = EagerEngine(checkpoint, _CPU, "fp32", plain, merge_for=modality)
    size = contract.input.height, contract.input.width
    sizes = (size, contract.input.canvas) if config.fixed_size else (None, None)
    tracer = Tracer(eager.model, eager.ma_clip, *sizes)
    served = [modality] if modality else list(contract.modalities)
    pad, encoding = contract.input.pad, contract.encoding
    cases = make_cases(size, served, config.fixed_size, pad=pad, encoding=encoding)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        draft = Path(scratch) / "made"
        draft.mkdir()
        progress("tracing the frame's network")
        programs = {FRAME: tracer.frame()}
        if tracer.scene_names:
            progress("tracing the scene's network")
            programs[SCENE] = tracer.scene()
        source = config.source(checkpoint.hash)
        mark = contract_mark(contract, modality, source)
        _write_graphs(tracer, programs, draft, config, mark, progress)
        write_manifest(draft, contract, modality, source)
        answers = [_answered(eager, case, progress) for case in cases]
        results = _compared(answers, draft, config.min_agreement, progress)
        if config.aot:
            _write_packages(programs, draft, progress)
            write_manifest(draft, contract, modality, source)
            results["aot"] = _compared_packages(answers, draft, config.min_agreement, progress)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.move(draft, folder)
    return {form: [asdict(case) for case in cases] for form, cases in results.items()}


def _answered(eager: EagerEngine, case: Case, progress: Progress) -> Answer:
    progress(f"answering in PyTorch: {case.name}")
    return answer(eager, case)


def _compared_packages(
    answers: Sequence[Answer], draft: Path, least: float, progress: Progress
) -> list[Parity]:
    progress("comparing the packages with PyTorch")
    packaged = _opened(draft, Backend.AOT)
    return [compare(each, packaged, "aot", least) for each in answers]


def _write_graphs(
    tracer: Tracer,
    programs: Mapping[str, ExportedProgram],
    folder: Path,
    config: ExportConfig,
    mark: str,
    progress: Progress,
) -> None:
    progress("converting the frame's network to ONNX")
    names = (["rgb", "x", *tracer.scene_names], [*FRAME_OUTPUTS, LOGITS_OUTPUT])
    graph = make_onnx(programs[FRAME], names, config.opset, config.simplify)
    progress(f"writing {FRAME} and {LOGITS}")
    write_onnx(graph, folder / FRAME, FRAME_OUTPUTS, {KEY: mark})
    write_onnx(graph, folder / LOGITS, [LOGITS_OUTPUT], {KEY: mark})
    if SCENE in programs:
        progress("converting the scene's network to ONNX")
        names = (["rgb", "x", "modality"], list(tracer.scene_names))
        graph = make_onnx(programs[SCENE], names, config.opset, config.simplify)
        progress(f"writing {SCENE}")
        write_onnx(graph, folder / SCENE, tracer.scene_names, {KEY: mark})


def _write_packages(
    programs: Mapping[str, ExportedProgram], folder: Path, progress: Progress
) -> None:
    for name, program in programs.items():
        path = folder / {FRAME: AOT_FRAME, SCENE: AOT_SCENE}[name]
        progress(f"compiling {path.name}; takes minutes")
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        except Exception as error:  # inductor's errors share no base but Exception
            text = str(error).strip().split("\n", 1)[0]
            raise ConfigError(f"export: AOTInductor cannot compile {path.name}: {text}") from None


def _compared(
    answers: Sequence[Answer], folder: Path, limit: float, progress: Progress
) -> dict[str, list[Parity]]:
    progress(f"comparing {LOGITS} with PyTorch")
    engine = _opened(folder, Backend.ONNX)
    onnx = [compare(each, engine, "onnx", limit) for each in answers]
    progress(f"comparing {FRAME} with PyTorch")
    graph = OnnxGraph((folder / FRAME).read_bytes(), FRAME)

    def labels(batch: Batch, scene: Scene) -> Tensor:
        return torch.from_numpy(graph.run(frame_inputs(batch, scene))["labels"])

    frame = [compare_labels(each, labels, FRAME, limit) for each in answers]
    return {"onnx": onnx, "frame": frame}


def _opened(folder: Path, backend: Backend) -> ExportedEngine:
    config = InferenceConfig(backend=backend, onnx=OnnxConfig(provider="cpu"))
    return open_exported(read_exported(folder), config, _CPU)


@command(OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a user error."""
    args = _parser().parse_args(arguments)
    start = time.monotonic()

    def progress(text: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {text}", flush=True)

    config = ExportConfig(
        args.modality,
        args.opset,
        args.min_agreement,
        args.aot,
        args.fixed_size,
        replace=not args.folder,
    )
    folder = Path(args.folder) if args.folder else folder_beside(args.checkpoint, config.modality)
    if not args.folder and is_current(folder, args.checkpoint, config):
        print(f"{folder}: is the export of {args.checkpoint}; nothing to do")
        return 0
    progress(f"reading {args.checkpoint}")
    report = export_checkpoint(load_checkpoint(args.checkpoint), folder, config, progress)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for form, cases in report.items():
        for case in cases:
            agreement, gap = 100 * case["agreement"], case["logit_error"]
            print(f"{form}: {agreement:.3f} % of labels, logits within {gap:.1e}: {case['case']}")
    files = sorted(path.name for path in folder.iterdir())
    print(f"{folder}: {', '.join(files)}")
    return 0


def is_current(folder: Path, checkpoint: Path | str, config: ExportConfig) -> bool:
    """True where a folder holds this export of this very checkpoint, whole."""
    if not (folder / CONTRACT).is_file() or not Path(checkpoint).is_file():
        return False
    try:
        model = read_exported(folder)
        for name in model.hashes:
            model.read_file(name)
    except CheckpointError:
        return False
    source = config.source(file_hash(Path(checkpoint)))
    return (model.source, model.merged_for) == (source, config.modality)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segrgbx-export", description=__doc__.split("\n\n", 1)[0]
    )
    parser.add_argument("checkpoint", type=path_text, help=".safetensors file")
    parser.add_argument(
        "folder",
        type=path_text,
        nargs="?",
        default="",
        help="to make; holds frame.onnx, scene.onnx and contract.json. Without it, CHECKPOINT's "
        "name with .exported, beside it, where backend: auto finds it; kept while the checkpoint "
        "is the same, else replaced",
    )
    parser.add_argument(
        "--modality",
        type=Modality,
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
    parser.add_argument(
        "--fixed-size",
        action="store_true",
        help="fix height and width at the input size of the checkpoint (free)",
    )
    parser.add_argument("--json", type=path_text, default="", help="file for the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
