"""Whatever a checkpoint holds can be exported: every baseline, trained here or imported.

The export itself compares its graphs with PyTorch on made-up images; imported models are compared
through `Segmenter` as well, in ONNX Runtime and OpenVINO.
"""

from typing import get_args

import pytest
import torch
from baseline_shapes import random_weights
from segformer_files import SHAPE, nvidia_state
from small_models import sample, small_contract

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from segrgbx_core.base.modality import Modality
from segrgbx_core.export import export, import_weights
from segrgbx_core.model.baselines import BaselineConfig
from segrgbx_core.runtime import checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

BASELINES = tuple(kind().architecture for kind in get_args(BaselineConfig))
IMPORTED = (*BASELINES, "geminifusion deliver", "stitchfusion shared")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BASELINES)
def test_every_baseline_is_exported(tmp_path, architecture):
    report = export.export_checkpoint(
        checkpoint.random_weights(small_contract(f"{architecture}_tiny")),
        tmp_path / "exported",
        export.ExportConfig(fixed_size=True, simplify=False),
    )
    assert set(report) == {"onnx", "frame"}
    assert all(case["agreement"] >= 0.999 for case in report["onnx"] + report["frame"])


def imported(path, family, branch):
    """Weights as their authors' code writes them, made a checkpoint by the command."""
    state = nvidia_state() if family == "segformer" else random_weights(family, branch)
    floats = {n: v.long() if n.endswith("tracked") else v.float() for n, v in state.items()}
    torch.save({"state_dict": floats}, path.with_suffix(".pth"))
    names = path.with_suffix(".txt")
    names.write_text("road\ngate\nsky\n")
    arguments = [str(path.with_suffix(".pth")), "--as", f"{family}_tiny", "--classes", str(names)]
    arguments += ["--modality", "thermal", "--size", "96x64", "--out", str(path)]
    assert import_weights.main(arguments, {"tiny": SHAPE}) == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", IMPORTED)
def test_every_imported_model_is_exported(tmp_path, capsys, case):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path, folder = tmp_path / "model.safetensors", tmp_path / "exported"
    family, _, branch = case.partition(" ")
    imported(path, family, branch)
    assert export.main([str(path), str(folder), "--modality", "thermal", "--fixed-size"]) == 0
    assert capsys.readouterr().out.count("onnx: 100.000 % of labels") == 3
    pairs = [sample(Modality.THERMAL, seed=seed) for seed in range(2)]
    inside = InferenceConfig(device="cpu")
    expected = Segmenter.from_checkpoint(path, inside, merge_for=Modality.THERMAL).predict(pairs)
    for backend, name in (("onnx", "onnxruntime cpu"), ("openvino", "openvino cpu")):
        segmenter = Segmenter.from_checkpoint(folder, InferenceConfig(backend=backend))
        assert segmenter.device_name == name
        for one, other in zip(segmenter.predict(pairs), expected, strict=True):
            assert (one.labels == other.labels).mean() > 0.995
            gap = abs(one.confidence.astype(int) - other.confidence.astype(int))
            assert gap.max() <= 2
