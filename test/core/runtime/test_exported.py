"""Exported folders: what is read, what is refused, and every runtime answers like PyTorch."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SIZE, sample, small_contract

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.export.graphs import Tracer
from segrgbx_core.export.parity import make_cases
from segrgbx_core.model import Scene
from segrgbx_core.model.tensor_files import file_hash
from segrgbx_core.runtime import backends
from segrgbx_core.runtime.backends import AotGraph, OnnxGraph, choose_provider
from segrgbx_core.runtime.checkpoint import random_weights
from segrgbx_core.runtime.engines import EagerEngine
from segrgbx_core.runtime.exported import (
    ExportedEngine,
    frame_inputs,
    read_exported,
    scene_shapes,
)
from segrgbx_core.runtime.options import Backend, InferenceConfig, OnnxConfig, SceneConfig
from segrgbx_core.runtime.segmenter import Segmenter

CPU = torch.device("cpu")
ONNX = InferenceConfig(device="cpu", backend=Backend.ONNX)
OPENVINO = InferenceConfig(device="cpu", backend=Backend.OPENVINO)
AOT = InferenceConfig(device="cpu", backend=Backend.AOT)


def eager():
    config = InferenceConfig(device="cpu", channels_last=False)
    return EagerEngine(random_weights(small_contract()), CPU, "fp32", config)


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the exported folder, to be changed."""
    return shutil.copytree(exported.folder, tmp_path / "model")


def rewrite(folder, **changes):
    """Changes entries of contract.json; None takes one out."""
    path = folder / "contract.json"
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return folder


def test_one_interface_for_all_backends(exported):
    ours = Segmenter(random_weights(small_contract()), InferenceConfig(device="cpu"))
    theirs = Segmenter.from_checkpoint(exported.folder, ONNX)
    assert theirs.device_name == "onnxruntime cpu"
    assert theirs.contract == ours.contract
    assert theirs.classes == ours.classes
    assert theirs.memory > 1e6
    assert theirs.checkpoint.hash == file_hash(exported.folder / "logits.onnx")
    theirs.warm_up((72, 100), [Modality.THERMAL], batch_sizes=(1, 2))
    samples = [sample(), sample(Modality.DEPTH, 50, 64, 1), sample(Modality.LIGHT_FIELD, seed=2)]
    for one, other in zip(ours.predict(samples), theirs.predict(samples), strict=True):
        assert (one.labels == other.labels).mean() > 0.999
        assert np.abs(one.confidence.astype(int) - other.confidence).max() <= 1
    native = Segmenter.from_checkpoint(exported.folder, ONNX, label_space="mfnet")
    assert native.predict(samples[:1])[0].labels.max() < len(native.classes.names)


def test_scenes_are_kept_whatever_runs_the_network(exported):
    config = ONNX.model_copy(update={"scene": SceneConfig(refresh_every=3, change=1.0)})
    kept = Segmenter.from_checkpoint(exported.folder, config)
    every = Segmenter.from_checkpoint(exported.folder, ONNX)
    answers = [
        kept.predict([sample(seed=seed), sample(Modality.DEPTH, seed=seed)], ["a", "b"])
        for seed in range(4)
    ]
    assert [answer.scene_age for answer, _ in answers] == [0, 1, 2, 0]
    fresh = every.predict([sample(seed=3), sample(Modality.DEPTH, seed=3)])
    assert np.array_equal(fresh[1].confidence, answers[3][1].confidence)


def test_scene_shapes_are_those_of_the_network():
    engine = eager()
    [case] = make_cases(SIZE, [Modality.DEPTH], count=1)
    with torch.inference_mode():
        given = frame_inputs(case.batch, engine.encode_scene(case.batch))
    assert list(given) == ["rgb", "x", *(f"prompt_kv_{i}" for i in range(1, 5)), "query_1"]
    shapes = scene_shapes(small_contract())
    assert shapes["query_1"][:2] == (2, None)
    for name, shape in shapes.items():
        assert tuple(1 if side is None else side for side in shape) == given[name].shape
    assert scene_shapes(small_contract("cmx_tiny")) == {}


# --- folders ------------------------------------------------------------------------------------


def test_folders_of_format_1_still_load(copy):
    """They have neither hashes nor source, and their graphs carry the text of that format."""
    onnx = pytest.importorskip("onnx")
    contract = json.loads((copy / "contract.json").read_text())["contract"]
    mark = json.dumps({"format": 1, "merged_for": "", "contract": contract}, sort_keys=True)
    for name in ("logits.onnx", "scene.onnx"):
        graph = onnx.load(copy / name)
        graph.metadata_props[0].value = mark
        onnx.save(graph, copy / name)
    rewrite(copy, format=1, files=None, source=None)
    assert len(Segmenter.from_checkpoint(copy, ONNX).predict([sample()])) == 1


def test_folders_that_do_not_fit_are_refused(exported, copy, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no contract\.json; an exported model is a"):
        read_exported(tmp_path)
    with pytest.raises(CheckpointError, match="format 99 is newer"):
        read_exported(rewrite(copy, format=99))
    rewrite(copy, format=2, merged_for="depth")
    with pytest.raises(CheckpointError, match="exported with another contract"):
        Segmenter.from_checkpoint(copy, ONNX)
    with pytest.raises(ConfigError, match="serves depth alone, not thermal"):
        Segmenter.from_checkpoint(copy, ONNX, merge_for=Modality.THERMAL)
    with pytest.raises(CheckpointError, match="is an exported model; run it with backend: onnx"):
        Segmenter.from_checkpoint(exported.folder, InferenceConfig(device="cpu"))
    (copy / "scene.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"has no scene\.onnx"):
        read_exported(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe{}", b"null", b"[]", b'"text"', b'{"format": 1e400}', b'{"format": null}',
        b'{"format": true}', b'{"format": 2}', b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": 2, "merged_for": "", "contract": []}',
        b'{"format": 2, "merged_for": "", "contract": {"format": 1}}',
        b'{"format": 2, "merged_for": ["\\ud800"], "contract": {}}',
        b'{"format": 2, "merged_for": "", "files": [1], "contract": {}}',
        b" " * (17 << 20),
    ],
)  # fmt: skip
def test_damaged_contracts_end_in_one_sentence(copy, content):
    (copy / "contract.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"contract\.json") as caught:
        read_exported(copy)
    assert len(str(caught.value)) < 600


def test_files_that_were_not_exported_together_are_refused(copy):
    data = (copy / "scene.onnx").read_bytes()
    (copy / "scene.onnx").write_bytes(data + b"\0")
    for config in (ONNX, OPENVINO):
        if config is OPENVINO and not has_openvino():
            continue
        with pytest.raises(CheckpointError, match=r"scene\.onnx: is not the file .*SHA-256"):
            Segmenter.from_checkpoint(copy, config)


@pytest.mark.parametrize("content", [b"", b"no graph", bytes(5000)])
def test_graphs_that_are_none_are_refused(copy, content):
    """Without hashes, as in folders of format 1."""
    rewrite(copy, files=None)
    (copy / "scene.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"onnx: cpu cannot run scene\.onnx"):
        Segmenter.from_checkpoint(copy, ONNX)


# --- graphs -------------------------------------------------------------------------------------


class FakeGraph:
    """A graph that returns constants."""

    name = "logits.onnx"

    def __init__(self, inputs, outputs, answers=None):
        self.inputs, self.outputs, self.answers = inputs, outputs, answers or {}

    def run(self, feeds):
        assert feeds.keys() == self.inputs.keys()
        return self.answers


IMAGES = {"rgb": (None, None, None, 3), "x": (None, None, None, 3)}
PARTS = scene_shapes(small_contract())
LOGITS = {"logits": (None, 71, None, None)}


def frame_graph(inputs=None, outputs=None, answers=None):
    return FakeGraph({**IMAGES, **PARTS, **(inputs or {})}, outputs or LOGITS, answers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"surprise": (1,)}}, r"frame graph's inputs hold surprise \(1\); .* nothing"),
        ({"inputs": {"query_1": (2, None, 7, 2, 2)}}, r"query_1 \(2, \*, 7, 2, 2\); its contract"),
        ({"inputs": {"rgb": (None, None, 3)}}, r"rgb \(\*, \*, 3\)"),
        ({"outputs": {"classes": (None,)}}, "frame graph's outputs hold logits nothing"),
        ({"outputs": {"logits": (None, 355, None, None)}}, r"logits \(\*, 355, \*, \*\)"),
    ],
)
def test_graphs_with_other_inputs_or_outputs_are_refused(exported, changes, message):
    with pytest.raises(CheckpointError, match=message):
        ExportedEngine(read_exported(exported.folder), "fake", frame_graph(**changes))


def test_x_may_be_missing_where_rgb_alone_is_read(exported):
    """OpenVINO drops inputs that nothing reads."""
    model = read_exported(exported.folder)
    images = {"rgb": IMAGES["rgb"]}
    with pytest.raises(CheckpointError, match="frame graph's inputs hold x nothing"):
        ExportedEngine(model, "fake", FakeGraph({**images, **PARTS}, LOGITS))
    logits = np.zeros((1, 71, 4, 4), np.float32)
    segformer = replace(model, contract=small_contract("segformer_tiny"))
    engine = ExportedEngine(segformer, "fake", FakeGraph(images, LOGITS, {"logits": logits}))
    [case] = make_cases(SIZE, [Modality.DEPTH], count=1)
    assert engine.coarse_logits(case.batch, Scene()).shape == logits.shape


def test_scene_graphs_with_other_outputs_are_refused(exported):
    model = read_exported(exported.folder)
    fewer = {name: PARTS[name] for name in list(PARTS)[:-1]}
    for outputs in (fewer, {**PARTS, "query_1": (2, None, 1, 1, 1)}):
        scene = FakeGraph(IMAGES, outputs)
        with pytest.raises(CheckpointError, match="scene graph's outputs hold query_1"):
            ExportedEngine(model, "fake", frame_graph(), scene)
    without_modality = ExportedEngine(model, "fake", frame_graph(), FakeGraph(IMAGES, PARTS))
    assert without_modality.fixed_size is None


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((1, 70, 4, 4), np.float32),
        np.zeros((2, 71, 4, 4), np.float32),
        np.zeros((71, 4, 4), np.float32),
        np.zeros((1, 71, 4, 4), np.int64),
    ],
)
def test_logits_of_another_shape_are_an_error(exported, logits):
    model = read_exported(exported.folder)
    engine = ExportedEngine(model, "fake", frame_graph(answers={"logits": logits}))
    [case] = make_cases(SIZE, [Modality.DEPTH], count=1)
    with torch.inference_mode():
        scene = eager().encode_scene(case.batch)
    with pytest.raises(CheckpointError, match=r"expected float32 \(1, 71, h, w\)"):
        engine.coarse_logits(case.batch, scene)


def test_a_failing_graph_is_an_error_unless_memory_is_the_cause(exported):
    model = read_exported(exported.folder)
    [case] = make_cases(SIZE, [Modality.DEPTH], count=1)

    def engine(error):
        graph = frame_graph()
        graph.inputs = IMAGES

        def run(_feeds):
            raise error

        graph.run = run
        made = ExportedEngine(model, "fake", frame_graph())
        made._frame = graph
        return made

    with pytest.raises(CheckpointError, match=r"a graph failed in fake \(Got: 5"):
        engine(RuntimeError("Got: 5 Expected: 4")).coarse_logits(case.batch, Scene())
    with pytest.raises(RuntimeError, match="bad_alloc"):
        engine(RuntimeError("std::bad_alloc")).coarse_logits(case.batch, Scene())


def test_fixed_graphs_refuse_another_input_size(exported):
    config = ONNX.model_copy(update={"input_height": 128})
    with pytest.raises(ConfigError, match="for an input of 96x64 alone, not 96x128; export with"):
        Segmenter.from_checkpoint(exported.folder, config)


# --- runtimes -----------------------------------------------------------------------------------


def test_options_without_effect_are_refused(exported, monkeypatch):
    for field, value in (("compile", True), ("cuda_graph", True), ("precision", "bf16")):
        config = ONNX.model_copy(update={field: value})
        with pytest.raises(ConfigError, match=f"{field}.*has no effect with backend onnx"):
            Segmenter.from_checkpoint(exported.folder, config)
    with pytest.raises(ConfigError, match="export the checkpoint first"):
        Segmenter(random_weights(small_contract()), ONNX)
    aot = AOT.model_copy(update={"precision": "bf16"})
    with pytest.raises(ConfigError, match=r"precision.*has no effect with backend aot"):
        Segmenter.from_checkpoint(exported.folder, aot)
    for backend in (Backend.AOT, Backend.OPENVINO):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        config = InferenceConfig(device="cuda", backend=backend)
        with pytest.raises(ConfigError, match=f"backend {backend.value} runs on a CPU, not on"):
            Segmenter.from_checkpoint(exported.folder, config)


def has_openvino():
    try:
        import openvino
    except ImportError:
        return False
    return bool(openvino)


needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")


@needs_openvino
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_openvino_answers_like_pytorch(exported, precision, limit):
    [case] = make_cases(SIZE, [Modality.DEPTH], count=1)
    config = OPENVINO.model_copy(update={"precision": precision})
    theirs = Segmenter.from_checkpoint(exported.folder, config)
    assert theirs.device_name == "openvino cpu"
    assert (theirs.precision, theirs.memory > 1e6) == (precision, True)
    ours = eager()
    with torch.inference_mode():
        expected = ours.coarse_logits(case.batch, ours.encode_scene(case.batch))
        logits = theirs.engine.coarse_logits(case.batch, theirs.engine.encode_scene(case.batch))
    assert ((expected - logits).std() / expected.std()).item() < limit
    assert len(theirs.predict([sample(), sample(Modality.DEPTH, 50, 64, 1)])) == 2


@needs_openvino
def test_openvino_compiles_for_every_batch_and_keeps_the_last_few(exported):
    theirs = Segmenter.from_checkpoint(exported.folder, OPENVINO)
    ours = Segmenter(random_weights(small_contract()), InferenceConfig(device="cpu"))
    for count in (1, 2, 3, 4, 5, 1):
        samples = [sample(seed=seed) for seed in range(count)]
        for one, other in zip(ours.predict(samples), theirs.predict(samples), strict=True):
            assert (one.labels == other.labels).mean() > 0.999
    kept = theirs.engine._frame._requests
    assert [key[0][0] for key in kept] == [3, 4, 5, 1]


@needs_openvino
def test_openvino_refuses_foreign_graphs(copy):
    rewrite(copy, merged_for="depth", files=None)
    with pytest.raises(CheckpointError, match="exported with another contract"):
        Segmenter.from_checkpoint(copy, OPENVINO)
    (copy / "logits.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"openvino: cannot run logits\.onnx"):
        Segmenter.from_checkpoint(copy, OPENVINO)


def test_missing_openvino_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'segrgbx_ros\[openvino\]'"):
        Segmenter.from_checkpoint(exported.folder, OPENVINO)


def with_packages(folder, hashed=True):
    for name in ("frame.pt2", "scene.pt2"):
        (folder / name).write_bytes(b"compiled")
    files = json.loads((folder / "contract.json").read_text())["files"]
    if hashed:
        files |= {name: file_hash(folder / name) for name in ("frame.pt2", "scene.pt2")}
    return rewrite(folder, files=files)


def test_packages_that_do_not_run_here_are_refused(exported, copy):
    with pytest.raises(CheckpointError, match=r"has no frame\.pt2; export with --aot"):
        Segmenter.from_checkpoint(exported.folder, AOT)
    with pytest.raises(ConfigError, match=r"backend: aot cannot load frame\.pt2"):
        Segmenter.from_checkpoint(with_packages(copy), AOT)


@pytest.mark.parametrize("name", ["logits.onnx", "scene.onnx"])
def test_every_graph_is_bound_to_the_contract(copy, name):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(copy / name)
    graph.doc_string = "touched: runs as before, but is another file"
    onnx.save(graph, copy / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is not the file that was exported"):
        Segmenter.from_checkpoint(copy, ONNX)


def test_native_code_is_bound_to_the_contract(copy, caplog):
    with pytest.raises(ConfigError):
        Segmenter.from_checkpoint(with_packages(copy, hashed=False), AOT)
    assert "frame.pt2 is native code that contract.json does not vouch for" in caplog.text
    with_packages(copy)
    (copy / "frame.pt2").write_bytes(b"another")
    with pytest.raises(CheckpointError, match=r"frame\.pt2: is not the file that was exported"):
        Segmenter.from_checkpoint(copy, AOT)


def test_packages_are_one_more_backend(copy, monkeypatch):
    """With the traced modules in place of what AOTInductor takes minutes to compile."""
    inner = eager()
    tracer = Tracer(inner.model, inner.ma_clip)
    halves = {"frame.pt2": tracer.frame_graph, "scene.pt2": tracer.scene_graph}
    monkeypatch.setattr(backends, "_load_package", lambda path: halves[path.name])
    theirs = Segmenter.from_checkpoint(with_packages(copy), AOT)
    assert theirs.device_name == "AOTInductor cpu"
    assert isinstance(theirs.engine._frame, AotGraph)
    samples = [sample(), sample(Modality.DEPTH, 50, 64, 1)]
    ours = Segmenter(random_weights(small_contract()), InferenceConfig(device="cpu"))
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


@pytest.mark.parametrize("location", ["../secret.bin", "/dev/zero", "missing.bin"])
def test_graphs_cannot_read_other_files(exported, tmp_path, monkeypatch, location):
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 20))
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    graph = onnx.load(exported.folder / "logits.onnx")
    weight = max(graph.graph.initializer, key=lambda item: len(item.raw_data))
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(ConfigError, match=r"onnx: cpu cannot run logits\.onnx"):
        OnnxGraph(graph.SerializeToString(), "logits.onnx")
