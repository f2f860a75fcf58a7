"""Exported graphs answer like the checkpoint, in this package and in any other host."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import LIDAR, SIZE, sample, small_contract, with_added

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.export import export
from segrgbx_core.export.graphs import bicubic_weights
from segrgbx_core.export.parity import ParityError, answer, compare, make_cases, scene_error
from segrgbx_core.model.refinement import Kind
from segrgbx_core.runtime.backends import OnnxGraph
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_weights
from segrgbx_core.runtime.engines import EagerEngine
from segrgbx_core.runtime.exported import read_exported
from segrgbx_core.runtime.options import Backend, InferenceConfig
from segrgbx_core.runtime.segmenter import Segmenter

CPU = torch.device("cpu")
GRAPHS = ("frame.onnx", "logits.onnx", "scene.onnx")


def eager():
    config = InferenceConfig(device="cpu", channels_last=False)
    return EagerEngine(random_weights(small_contract()), CPU, "fp32", config)


def graph(folder, name):
    return OnnxGraph((folder / name).read_bytes(), name)


def test_the_report_names_every_form_and_case(exported):
    assert sorted(path.name for path in exported.folder.iterdir()) == ["contract.json", *GRAPHS]
    assert set(exported.report) == {"onnx", "frame"}
    for cases in exported.report.values():
        assert len(cases) == 3
        assert all(case["agreement"] >= 0.999 for case in cases)
    mentioned = " ".join(case["case"] for case in exported.report["onnx"])
    assert all(modality.value in mentioned for modality in MODALITIES)
    assert not list(exported.folder.parent.glob(".export-*"))


def test_every_step_is_announced(exported):
    assert exported.lines == [
        "tracing the frame's network",
        "tracing the scene's network",
        "converting the frame's network to ONNX",
        "writing frame.onnx and logits.onnx",
        "converting the scene's network to ONNX",
        "writing scene.onnx",
        *(f"answering in PyTorch: {case['case']}" for case in exported.report["onnx"]),
        "comparing logits.onnx with PyTorch",
        "comparing frame.onnx with PyTorch",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sizes_are_free(tmp_path):
    """Tracing without known sizes takes most of a minute."""
    report = export.export_checkpoint(
        random_weights(small_contract()),
        tmp_path / "model",
        export.ExportConfig(simplify=False),
    )
    assert [case["case"].split(" (")[0] for case in report["onnx"]] == [
        "batch 1, 96x64",
        "batch 2, 97x65",
        "batch 3, 96x64",
    ]
    scene, frame = graph(tmp_path / "model", "scene.onnx"), graph(tmp_path / "model", "frame.onnx")
    labels_of_any_host(scene, frame, ((1, 64, 96), (2, 90, 65)))


def test_any_host_gets_labels_from_the_frame_graph(exported):
    """With nothing but ONNX Runtime and numpy, images in memory order."""
    scene, frame = graph(exported.folder, "scene.onnx"), graph(exported.folder, "frame.onnx")
    labels_of_any_host(scene, frame, ((1, *SIZE), (2, *SIZE)))


def labels_of_any_host(scene, frame, shapes):
    rng = np.random.default_rng(0)
    for batch, height, width in shapes:
        images = {
            "rgb": rng.integers(0, 255, (batch, height, width, 3)).astype(np.uint8),
            "x": rng.random((batch, height, width, 3)).astype(np.float32),
        }
        made = frame.run({**images, **scene.run({**images, "modality": np.arange(batch)})})
        labels, confidence = made["labels"], made["confidence"]
        assert labels.shape == confidence.shape == (batch, height, width)
        assert labels.dtype == confidence.dtype == np.uint8
        assert labels.max() < 71
        assert confidence.std() > 0


@pytest.mark.parametrize(
    ("preset", "changes", "files"),
    [
        ("cmx_tiny", {}, ["contract.json", "frame.onnx", "logits.onnx"]),
        ("tiny", {"use_ma_clip": False}, ["contract.json", *GRAPHS]),
    ],
)
def test_networks_without_embeddings_are_exported_too(tmp_path, preset, changes, files):
    contract = small_contract(preset, **changes)
    folder = tmp_path / "model"
    report = export.export_checkpoint(
        random_weights(contract), folder, export.ExportConfig(fixed_size=True, simplify=False)
    )
    assert sorted(path.name for path in folder.iterdir()) == files
    assert all(case["agreement"] >= 0.999 for case in report["onnx"])
    config = InferenceConfig(device="cpu", backend=Backend.ONNX)
    assert Segmenter.from_checkpoint(folder, config).contract.model == contract.model


def test_a_mixture_with_shared_prompts_is_exported(tmp_path):
    """One group per image is chosen inside the graph; the export compares it with PyTorch."""
    contract = small_contract()
    changes = {
        "kind": Kind.MIXTURE, "depth": 2, "shares_prompts": True, "universal_conv": True,
        "layer_scale": 0.5, "num_universal": 4,
    }  # fmt: skip
    refinement = contract.model.refinement.model_copy(update=changes)
    model = contract.model.model_copy(update={"refinement": refinement})
    checkpoint = random_weights(contract.model_copy(update={"model": model}))
    with torch.no_grad():
        select = checkpoint.model.refine.universal.select[2]
        select.weight.normal_(std=30.0)  # else all images would choose one group
    twin = copy.deepcopy(checkpoint)
    report = export.export_checkpoint(checkpoint, tmp_path / "model")
    assert all(case["agreement"] > 0.999 for form in report.values() for case in form)
    chosen = []
    twin.model.refine.universal.register_forward_hook(
        lambda _, __, made: chosen.extend(made[1].argmax(dim=1).tolist())
    )
    pairs = [sample(seed=seed) for seed in range(4)]
    ours = Segmenter(twin, InferenceConfig(device="cpu")).predict(pairs)
    assert len(set(chosen)) > 1
    config = InferenceConfig(device="cpu", backend=Backend.ONNX)
    theirs = Segmenter.from_checkpoint(tmp_path / "model", config).predict(pairs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.labels == other.labels).mean() > 0.999


@pytest.mark.parametrize("fixed", [True, False])
def test_exported_models_answer_padded_inputs_as_pytorch_does(tmp_path, fixed):
    odd = InputConfig(height=70, width=90)
    checkpoint = random_weights(small_contract().model_copy(update={"input": odd}))
    twin = copy.deepcopy(checkpoint)
    options = export.ExportConfig(fixed_size=fixed, simplify=False)
    export.export_checkpoint(checkpoint, tmp_path / "model", options)
    samples = [sample(), sample(Modality.DEPTH, 40, 60)]
    ours = Segmenter(twin, InferenceConfig(device="cpu")).predict(samples)
    config = InferenceConfig(device="cpu", backend=Backend.ONNX)
    theirs = Segmenter.from_checkpoint(tmp_path / "model", config).predict(samples)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.labels == other.labels).mean() > 0.999


def test_exported_models_serve_what_was_added_to_a_checkpoint(tmp_path):
    checkpoint = random_weights(with_added(small_contract(), lidar=LIDAR, nir=LIDAR))
    twin = copy.deepcopy(checkpoint)
    options = export.ExportConfig(simplify=False)
    report = export.export_checkpoint(checkpoint, tmp_path / "model", options)
    mentioned = " ".join(case["case"] for case in report["onnx"])
    assert all(name in mentioned for name in (*MODALITIES, "lidar", "nir"))
    ranges = np.random.default_rng(0).uniform(1, 50, (72, 100)).astype(np.float32)
    samples = [replace(sample(), x=ranges, modality=Modality(name)) for name in ("lidar", "nir")]
    ours = Segmenter(twin, InferenceConfig(device="cpu")).predict(samples)
    config = InferenceConfig(device="cpu", backend=Backend.ONNX)
    theirs = Segmenter.from_checkpoint(tmp_path / "model", config).predict(samples)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.labels == other.labels).mean() > 0.999


def test_graphs_carry_the_contract(exported):
    text = json.loads((exported.folder / "contract.json").read_text())
    assert text["contract"]["input"] == {
        "height": 64, "width": 96, "resize_mode": "stretch", "pad": True
    }  # fmt: skip
    assert set(text.pop("files")) == set(GRAPHS)
    for name in GRAPHS:
        assert json.loads(graph(exported.folder, name).mark) == text
    assert read_exported(exported.folder).hashes.keys() == set(GRAPHS)


def test_an_existing_folder_is_left_alone(exported):
    with pytest.raises(CheckpointError, match="exists"):
        export.export_checkpoint(random_weights(small_contract()), exported.folder)


class Damaged:
    """An engine whose answers are spoilt."""

    def __init__(self, inner, logits=None, scene=None):
        self._inner, self._spoil_logits, self._spoil_scene = inner, logits, scene

    def encode_scene(self, batch):
        scene = self._inner.encode_scene(batch)
        return self._spoil_scene(scene) if self._spoil_scene else scene

    def coarse_logits(self, batch, scene):
        logits = self._inner.coarse_logits(batch, scene)
        return self._spoil_logits(logits) if self._spoil_logits else logits


def test_differences_are_found_and_located():
    ours = eager()
    cases = make_cases((64, 64), [Modality.DEPTH, Modality.EVENT], count=2)
    first, second = answers = [answer(ours, case) for case in cases]

    def one_corner(logits):
        logits = logits.clone()
        logits[-1, 0, :4, :8] += 100
        return logits

    with pytest.raises(ParityError, match=r"onnx: labels agree on .* at batch 1, 64x64 \(depth\)"):
        compare(first, Damaged(ours, one_corner), "onnx")
    with pytest.raises(ParityError, match=r"worst in sample 1 .*rows 0 to 1\d, columns 0 to 3\d"):
        compare(second, Damaged(ours, one_corner), "onnx")
    with pytest.raises(ParityError, match="labels agree on"):
        compare(first, Damaged(ours, lambda logits: logits * float("nan")), "onnx")

    def other_query(scene):
        return scene._replace(queries=tuple(part + 0.1 for part in scene.queries))

    with pytest.raises(ParityError, match="query of DSRM 1 of the scene is off by"):
        compare(first, Damaged(ours, scene=other_query), "onnx")
    same = [compare(each, ours, "itself") for each in answers]
    assert [(case.agreement, case.logit_error, case.scene_error) for case in same] == [
        (1, 0, 0)
    ] * 2
    scene = ours.encode_scene(cases[0].batch)
    assert scene_error(scene, scene)[1] == 0


def test_nothing_is_written_when_answers_differ(monkeypatch, tmp_path):
    def refuse(*_):
        raise ParityError("onnx: labels agree on 12 %")

    monkeypatch.setattr(export, "_write_graphs", lambda *_: None)
    monkeypatch.setattr(export, "_compared", refuse)
    with pytest.raises(ParityError, match="12 %"):
        export.export_checkpoint(
            random_weights(small_contract("cmx_tiny")),
            tmp_path / "model",
            export.ExportConfig(fixed_size=True),
        )
    assert list(tmp_path.iterdir()) == []


def test_command_line_mistakes_end_with_one_line(tmp_path, capsys):
    assert export.main([str(tmp_path / "none.safetensors"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_command_line_reports(monkeypatch, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    case = {"case": "batch 1", "agreement": 0.99987, "logit_error": 2e-6, "scene_error": 0.0}
    monkeypatch.setattr(export, "load_checkpoint", lambda _: None)
    monkeypatch.setattr(export, "export_checkpoint", lambda *_: {"onnx": [case]})
    path = tmp_path / "report.json"
    assert export.main(["a.safetensors", str(tmp_path / "out"), "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "0.0 s  reading a.safetensors" in printed
    assert "onnx: 99.987 % of labels, logits within 2.0e-06: batch 1" in printed
    assert json.loads(path.read_text())["onnx"] == [case]


@pytest.mark.parametrize("size", [(64, 64), (240, 320), (37, 500), (32, 32)])
def test_resizing_by_matrix_is_torchs(size):
    torch.manual_seed(0)
    images = torch.rand(1, 3, *size)
    rows, columns = (bicubic_weights(count, 64) for count in size)
    expected = torch.nn.functional.interpolate(
        images, (64, 64), mode="bicubic", align_corners=False, antialias=True
    )
    torch.testing.assert_close(rows @ images @ columns.T, expected, rtol=0, atol=2e-6)


def test_graphs_use_operators_that_every_runtime_knows(exported):
    onnx = pytest.importorskip("onnx")
    for name in GRAPHS:
        model = onnx.load(exported.folder / name)
        assert {(item.domain, item.version) for item in model.opset_import} == {("", 18)}
        assert not model.functions
        for node in model.graph.node:
            given = {item.name: item for item in node.attribute}
            assert "antialias" not in given or not given["antialias"].i, node.name
