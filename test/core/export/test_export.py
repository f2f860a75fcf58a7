"""Exported models answer like the checkpoint, in this package and in any other host."""

import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.export import export
from segrgbx_core.export import graphs as export_graphs
from segrgbx_core.export.parity import ParityError, compare, make_cases, scene_error
from segrgbx_core.model import PRESETS
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.engine import EagerEngine
from segrgbx_core.runtime.exported import read_exported
from segrgbx_core.runtime.exported_engine import feeds
from segrgbx_core.runtime.onnx_engine import choose_provider, open_session
from segrgbx_core.runtime.options import Backend, OnnxConfig, SceneConfig
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

CPU = torch.device("cpu")
ONNX = InferenceConfig(device="cpu", backend=Backend.ONNX)


def contract():
    tiny = PRESETS["tiny"]
    model = tiny.model_copy(
        update={
            "backbone": tiny.backbone.model_copy(
                update={
                    "depths": (1, 1, 1, 1),
                    "embed_dims": (8, 16, 24, 32),
                    "num_heads": (1, 2, 2, 2),
                }
            ),
            "refinement": tiny.refinement.model_copy(update={"depth": 1, "num_heads": 2}),
        }
    )
    clip = CLIP_PRESETS["tiny"].model_copy(update={"depth": 1})
    size = InputConfig(height=64, width=96)
    return default_contract("tiny", model=model, ma_clip=clip, input=size)


def eager():
    config = InferenceConfig(device="cpu", channels_last=False)
    return EagerEngine(random_weights(contract()), CPU, "fp32", config)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_graphs, "_SIMPLIFIES", False)  # a third of the time
        report = export.export_checkpoint(random_weights(contract()), folder)
    return folder, report


def sample(modality=Modality.THERMAL, height=72, width=100, seed=0):
    rng = np.random.default_rng(seed)
    rgb = np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 3)), 12, 0), 14, 1)[:height, :width]
    x = rng.integers(28000, 32000, (40, 50)).astype(np.uint16)
    if modality is Modality.LIGHT_FIELD:
        x = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    return RgbxSample(rgb.astype(np.uint8), x, modality, seed)


def test_the_report_names_every_form_and_case(exported):
    folder, report = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "contract.json", "frame.onnx", "logits.onnx", "scene.onnx",
    ]  # fmt: skip
    assert set(report) == {"onnx", "frame"}
    for cases in report.values():
        assert len(cases) == 3
        assert all(case["agreement"] >= 0.999 for case in cases)
    mentioned = " ".join(case["case"] for case in report["onnx"])
    assert all(modality.value in mentioned for modality in MODALITIES)
    assert not list(folder.parent.glob(".export-*"))


def test_one_interface_for_both_backends(exported):
    folder, _ = exported
    ours = Segmenter(random_weights(contract()), InferenceConfig(device="cpu"))
    theirs = Segmenter.from_checkpoint(folder, ONNX)
    assert theirs.device_name == "onnxruntime cpu"
    assert theirs.contract == ours.contract
    assert theirs.classes == ours.classes
    assert theirs.memory > 1e6
    assert len(theirs.checkpoint.hash) == 64
    theirs.warm_up((72, 100), [Modality.THERMAL], batch_sizes=(1, 2))
    samples = [sample(), sample(Modality.DEPTH, 50, 64, 1), sample(Modality.LIGHT_FIELD, seed=2)]
    for one, other in zip(ours.predict(samples), theirs.predict(samples), strict=True):
        assert (one.labels == other.labels).mean() > 0.999
        assert np.abs(one.confidence.astype(int) - other.confidence).max() <= 1
    native = Segmenter.from_checkpoint(folder, ONNX, label_space="mfnet")
    assert native.predict(samples[:1])[0].labels.max() < len(native.classes.names)


def test_scenes_are_kept_whatever_runs_the_network(exported):
    config = ONNX.model_copy(update={"scene": SceneConfig(refresh_every=3, change=1.0)})
    kept = Segmenter.from_checkpoint(exported[0], config)
    every = Segmenter.from_checkpoint(exported[0], ONNX)
    ages = [
        kept.predict([sample(seed=seed), sample(Modality.DEPTH, seed=seed)], ["a", "b"])
        for seed in range(4)
    ]
    assert [answer.scene_age for answer, _ in ages] == [0, 1, 2, 0]
    fresh = every.predict([sample(seed=3), sample(Modality.DEPTH, seed=3)])
    assert np.array_equal(fresh[1].confidence, ages[3][1].confidence)


def test_any_host_gets_labels_from_the_frame_graph(exported):
    """With nothing but ONNX Runtime and numpy, images as they lie in memory."""
    folder, _ = exported
    scene, frame = open_session(folder / "scene.onnx"), open_session(folder / "frame.onnx")
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 64, 96), (2, 90, 65)):
        images = {
            "rgb": rng.integers(0, 255, (batch, height, width, 3)).astype(np.uint8),
            "x": rng.random((batch, height, width, 3)).astype(np.float32),
        }
        names = [output.name for output in scene.get_outputs()]
        parts = scene.run(None, {**images, "modality": np.arange(batch)})
        labels, confidence = frame.run(
            ["labels", "confidence"], {**images, **dict(zip(names, parts, strict=True))}
        )
        assert labels.shape == confidence.shape == (batch, height, width)
        assert labels.dtype == confidence.dtype == np.uint8
        assert labels.max() < 71
        assert confidence.std() > 0


def test_graphs_carry_the_contract(exported):
    folder, _ = exported
    text = json.loads((folder / "contract.json").read_text())
    assert text["contract"]["input"] == {"height": 64, "width": 96, "resize_mode": "stretch"}
    for name in ("frame.onnx", "logits.onnx", "scene.onnx"):
        carried = open_session(folder / name).get_modelmeta().custom_metadata_map
        assert json.loads(carried["segrgbx"]) == text


def changed(folder, target, **changes):
    """A copy of an exported folder whose contract.json says something else."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    data = json.loads((folder / "contract.json").read_text())
    (target / "contract.json").write_text(json.dumps({**data, **changes}))
    return target


def test_folders_that_do_not_fit_are_refused(exported, tmp_path):
    folder, _ = exported
    with pytest.raises(CheckpointError, match=r"has no contract\.json"):
        read_exported(tmp_path)
    with pytest.raises(CheckpointError, match="format 99 is newer"):
        read_exported(changed(folder, tmp_path / "new", format=99))
    with pytest.raises(CheckpointError, match=r"contract\.json is damaged"):
        read_exported(changed(folder, tmp_path / "damaged", contract={"format": 1}))
    other = changed(folder, tmp_path / "other", merged_for="depth")
    with pytest.raises(CheckpointError, match="exported with another contract"):
        Segmenter.from_checkpoint(other, ONNX)
    with pytest.raises(ConfigError, match="serves depth alone, not thermal"):
        Segmenter.from_checkpoint(other, ONNX, merge_for=Modality.THERMAL)
    with pytest.raises(CheckpointError, match="is an exported model; run it with backend: onnx"):
        Segmenter.from_checkpoint(folder, InferenceConfig(device="cpu"))
    (other / "scene.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"has no scene\.onnx"):
        read_exported(other)


def test_an_existing_folder_is_left_alone(exported):
    folder, _ = exported
    with pytest.raises(CheckpointError, match="exists"):
        export.export_checkpoint(random_weights(contract()), folder)


def test_options_without_effect_are_refused(exported, monkeypatch):
    folder, _ = exported
    for field, value in (("compile", True), ("cuda_graph", True), ("precision", "bf16")):
        config = ONNX.model_copy(update={field: value})
        with pytest.raises(ConfigError, match=f"{field}.*has no effect with backend onnx"):
            Segmenter.from_checkpoint(folder, config)
    with pytest.raises(ConfigError, match="export the checkpoint first"):
        Segmenter(random_weights(contract()), ONNX)

    aot = InferenceConfig(device="cpu", backend=Backend.AOT, precision="bf16")
    with pytest.raises(ConfigError, match=r"precision.*has no effect with backend aot"):
        Segmenter.from_checkpoint(folder, aot)
    for backend in (Backend.AOT, Backend.OPENVINO):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(ConfigError, match=f"backend {backend.value} runs on a CPU, not on"):
            Segmenter.from_checkpoint(folder, InferenceConfig(device="cuda", backend=backend))


def test_openvino_answers_like_onnx_runtime(exported):
    pytest.importorskip("openvino", reason="openvino is not installed")
    folder, _ = exported
    [case] = make_cases((64, 96), [Modality.DEPTH], 1)
    ours = eager()
    for precision, error in (("fp32", 1e-4), ("bf16", 0.1)):
        config = InferenceConfig(device="cpu", backend=Backend.OPENVINO, precision=precision)
        theirs = Segmenter.from_checkpoint(folder, config)
        assert theirs.device_name == "openvino cpu"
        assert (theirs.precision, theirs.memory > 1e6) == (precision, True)
        with torch.inference_mode():
            expected = ours.logits(case.batch, ours.scene(case.batch))
            logits = theirs.engine.logits(case.batch, theirs.engine.scene(case.batch))
        assert ((expected - logits).std() / expected.std()).item() < error
        assert len(theirs.predict([sample(), sample(Modality.DEPTH, 50, 64, 1)])) == 2


def test_openvino_refuses_foreign_graphs(exported, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    config = InferenceConfig(device="cpu", backend=Backend.OPENVINO)
    other = changed(exported[0], tmp_path / "other", merged_for="depth")
    with pytest.raises(CheckpointError, match="exported with another contract"):
        Segmenter.from_checkpoint(other, config)
    (other / "logits.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"openvino: cannot run logits\.onnx"):
        Segmenter.from_checkpoint(other, config)


def test_missing_openvino_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    config = InferenceConfig(device="cpu", backend=Backend.OPENVINO)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'segrgbx_ros\[openvino\]'"):
        Segmenter.from_checkpoint(exported[0], config)


def test_compiled_packages_are_one_more_backend(exported, tmp_path, monkeypatch):
    """With doubles for what AOTInductor compiles, which takes minutes."""
    config = InferenceConfig(device="cpu", backend=Backend.AOT)
    with pytest.raises(CheckpointError, match=r"has no frame\.pt2; export with --aot"):
        Segmenter.from_checkpoint(exported[0], config)
    folder = changed(exported[0], tmp_path / "aot")
    for name in ("frame.pt2", "scene.pt2"):
        (folder / name).write_bytes(b"compiled")
    with pytest.raises(ConfigError, match=r"backend: aot cannot load frame\.pt2"):
        Segmenter.from_checkpoint(folder, config)
    inner = eager()
    tracer = export_graphs.Tracer(inner.model, inner.ma_clip)
    halves = {"frame.pt2": tracer._frame_graph, "scene.pt2": tracer._scene_graph}
    monkeypatch.setattr("segrgbx_core.runtime.aot_package._load", lambda path: halves[path.name])
    theirs = Segmenter.from_checkpoint(folder, config)
    assert theirs.device_name == "AOTInductor cpu"
    samples = [sample(), sample(Modality.DEPTH, 50, 64, 1)]
    ours = Segmenter(random_weights(contract()), InferenceConfig(device="cpu"))
    for one, other in zip(ours.predict(samples), theirs.predict(samples), strict=True):
        assert (one.labels == other.labels).mean() > 0.999


def test_providers(monkeypatch):
    assert choose_provider("auto", CPU) == "cpu"
    with pytest.raises(ConfigError, match="'tensorrt' is not in the installed ONNX Runtime"):
        choose_provider("tensorrt", CPU)
    monkeypatch.setattr(
        "onnxruntime.get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    assert choose_provider("auto", torch.device("cuda", 0)) == "cuda"
    assert choose_provider("auto", CPU) == "cpu"


def test_provider_options():
    config = OnnxConfig(provider_options="trt_fp16_enable=1, trt_engine_cache_path=/tmp/x")
    assert config.pairs() == {"trt_fp16_enable": "1", "trt_engine_cache_path": "/tmp/x"}
    assert OnnxConfig().pairs() == {}
    with pytest.raises(ValueError, match="is no key=value"):
        OnnxConfig(provider_options="fast")
    with pytest.raises(ValueError, match="did you mean 'tensorrt'"):
        OnnxConfig(provider="tensort")


class Damaged:
    """An engine whose answers are spoilt."""

    def __init__(self, inner, logits=None, scene=None):
        self._inner, self._spoil_logits, self._spoil_scene = inner, logits, scene

    def scene(self, batch):
        scene = self._inner.scene(batch)
        return self._spoil_scene(scene) if self._spoil_scene else scene

    def logits(self, batch, scene):
        logits = self._inner.logits(batch, scene)
        return self._spoil_logits(logits) if self._spoil_logits else logits


def test_differences_are_found_and_located():
    ours = eager()
    cases = make_cases((64, 64), [Modality.DEPTH, Modality.EVENT], 2)

    def one_corner(logits):
        logits = logits.clone()
        logits[-1, 0, :4, :8] += 100
        return logits

    with pytest.raises(ParityError, match=r"onnx: labels agree on .* at batch 1, 64x64 \(depth\)"):
        compare(ours, Damaged(ours, one_corner), cases, "onnx")
    with pytest.raises(ParityError, match=r"worst in sample 1 .*rows 0 to 1\d, columns 0 to 3\d"):
        compare(ours, Damaged(ours, one_corner), cases[1:], "onnx")
    with pytest.raises(ParityError, match="labels agree on"):
        compare(ours, Damaged(ours, lambda logits: logits * float("nan")), cases, "onnx")

    def other_query(scene):
        return scene._replace(queries=tuple(part + 0.1 for part in scene.queries))

    with pytest.raises(ParityError, match="query of DSRM 1 of the scene is off by"):
        compare(ours, Damaged(ours, scene=other_query), cases, "onnx")
    same = compare(ours, ours, cases, "itself")
    assert [(case.agreement, case.logit_error, case.scene_error) for case in same] == [
        (1, 0, 0)
    ] * 2
    assert scene_error(ours.scene(cases[0].batch), ours.scene(cases[0].batch))[1] == 0


def test_nothing_is_written_when_answers_differ(monkeypatch, tmp_path):
    def refuse(*_):
        raise ParityError("onnx: labels agree on 12 %")

    def no_graphs(tracer, programs, folder, opset, text):
        (folder / "logits.onnx").write_bytes(b"")

    class NoTracer:
        def __init__(self, *_):
            self.frame = self.scene = lambda: None

    monkeypatch.setattr(export, "Tracer", NoTracer)
    monkeypatch.setattr(export, "_write_graphs", no_graphs)
    monkeypatch.setattr(export, "read_exported", lambda _: None)
    monkeypatch.setattr(export, "OnnxEngine", lambda *_: None)
    monkeypatch.setattr(export, "compare", refuse)
    with pytest.raises(ParityError, match="12 %"):
        export.export_checkpoint(random_weights(contract()), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_networks_without_scenes_are_refused(tmp_path):
    small = contract()
    blind = small.model.model_copy(update={"use_ma_clip": False})
    weights = random_weights(small.model_copy(update={"model": blind}))
    with pytest.raises(ConfigError, match="does not look at scenes"):
        export.export_checkpoint(weights, tmp_path / "model")


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
    assert "onnx: 99.987 % of labels, logits within 2.0e-06: batch 1" in capsys.readouterr().out
    assert json.loads(path.read_text())["onnx"] == [case]


@pytest.mark.parametrize("size", [(64, 64), (240, 320), (37, 500), (32, 32)])
def test_resizing_by_matrix_is_torchs(size):
    torch.manual_seed(0)
    images = torch.rand(1, 3, *size)
    rows, columns = (export_graphs.bicubic_weights(count, 64) for count in size)
    expected = torch.nn.functional.interpolate(
        images, (64, 64), mode="bicubic", align_corners=False, antialias=True
    )
    torch.testing.assert_close(rows @ images @ columns.T, expected, rtol=0, atol=2e-6)


def test_graphs_use_operators_that_every_runtime_knows(exported):
    onnx = pytest.importorskip("onnx")
    for name in ("frame.onnx", "logits.onnx", "scene.onnx"):
        model = onnx.load(exported[0] / name)
        assert {(item.domain, item.version) for item in model.opset_import} == {("", 18)}
        assert not model.functions
        for node in model.graph.node:
            given = {item.name: item for item in node.attribute}
            assert "antialias" not in given or not given["antialias"].i, node.name


def test_feeds_name_what_the_graph_takes():
    ours = eager()
    [case] = make_cases((64, 64), [Modality.DEPTH], 1)
    with torch.inference_mode():
        given = feeds(case.batch, ours.scene(case.batch))
    assert list(given) == ["rgb", "x", *(f"prompt_kv_{i}" for i in range(1, 5)), "query_1"]
    assert given["query_1"].shape[:2] == (2, 1)
