"""What stands between options and a loaded model; no rclpy needed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_ros import load_model as loading
from segrgbx_ros.config.node import node_config

TOTAL = 8 << 30


@pytest.fixture
def limits(monkeypatch):
    """Limits asked for, as (share, device index), of a GPU with 8 GiB."""
    asked = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (TOTAL // 2, TOTAL))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *limit: asked.append(limit)
    )
    return asked


@pytest.mark.parametrize(
    ("device", "max_mb", "expected"),
    [
        ("cuda:1", 2048, [(0.25, 1)]),
        ("cuda", 6144, [(0.75, 3)]),
        ("cuda:0", 99_999, [(1.0, 0)]),
        ("cuda:0", 0, []),
        ("cpu", 2048, []),
    ],
)
def test_the_memory_limit_is_a_share_of_the_gpus_own(limits, device, max_mb, expected):
    loading._limit_memory(torch.device(device), max_mb)
    assert limits == expected


def test_the_option_reaches_the_limit(monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "_limit_memory", lambda device, mb: asked.append((device, mb)))
    options = {"model.allow_random_weights": True, "model.device": "cpu"}
    loading.load_segmenter(node_config({**options, "model.max_memory_mb": 512}))
    assert asked == [(torch.device("cpu"), 512)]


def test_no_model_is_an_error_that_says_what_to_do():
    with pytest.raises(ConfigError, match=r"model\.checkpoint: is empty; give the path"):
        loading.load_segmenter(node_config({}))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shape mismatch"), False),
        (Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Message: std::bad_alloc"), True),
        (Exception("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got: 5 Expected: 4"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert loading.is_out_of_memory(error) is expected


@pytest.mark.parametrize("has_arena", [True, False])
def test_a_pass_of_onnx_runtime_that_finds_no_memory_counts(has_arena):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    size = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    ones = onnx.helper.make_tensor_value_info("ones", onnx.TensorProto.FLOAT, ["n"])
    node = onnx.helper.make_node("ConstantOfShape", ["size"], ["ones"])
    graph = onnx.helper.make_graph([node], "large", [size], [ones])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena, options.log_severity_level = has_arena, 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011  its classes share no other base
        session.run(None, {"size": np.array([1 << 44])})
    assert loading.is_out_of_memory(caught.value)


def test_memory_facts_name_the_process():
    facts = loading.memory_facts(SimpleNamespace(device=torch.device("cpu"), memory=3 << 20))
    assert facts.megabytes.keys() == {"rss_mb", "memory_mb"}
    assert facts.megabytes["rss_mb"] > 50
    assert facts.megabytes["memory_mb"] == 3
    assert facts.fault == ""


def fail(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")


def test_a_device_with_a_fault_is_told_and_not_raised(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    facts = loading.memory_facts(SimpleNamespace(device=torch.device("cuda:0"), memory=0))
    assert facts.fault == "CUDA error: an illegal memory access was encountered"
    assert facts.megabytes["rss_mb"] > 50


def test_a_device_with_a_fault_gives_nothing_back(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append(1) or fail())
    loading.free_memory()
    assert asked
