"""Devices, number formats, threads, memory and timing of this machine."""

import os

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.runtime.devices import (
    StageTimer,
    choose_device,
    choose_precision,
    flushed_denormals,
    is_out_of_memory,
    use_threads,
)


@pytest.mark.parametrize("index", [1, 127, 255, 256, 300])
def test_a_gpu_that_is_not_there_is_never_another_one(monkeypatch, index):
    """torch keeps 8 bits of the number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=f"device: 'cuda:{index}' cannot be used"):
        choose_device(f"cuda:{index}")
    assert choose_device("cuda:0") == choose_device("cuda") == torch.device("cuda", 0)


def test_denormals_are_flushed_and_the_thread_left_as_it_was():
    def is_flushed():
        return bool((torch.tensor(1e-38) * 0.1) == 0)

    for before in (False, True):
        torch.set_flush_denormal(before)
        with flushed_denormals():
            assert is_flushed()
        assert is_flushed() == before
    torch.set_flush_denormal(False)


def test_threads_of_a_pass(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert use_threads(0) == 3, "the environment's number is the process's, and stays"
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
        assert use_threads(0) == 3
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        assert use_threads(0) == 1
    finally:
        torch.set_num_threads(before)


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="'cuda' cannot be used, torch sees no CUDA device"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="'mps' is not supported"):
        choose_device("mps")
    with pytest.raises(ConfigError, match="is not one of"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="torch sees 1 CUDA devices"):
        choose_device("cuda:1")


def test_precisions(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert choose_precision("auto", cpu) == "fp32"
    with pytest.raises(ConfigError, match="fp16 is not supported on a CPU"):
        choose_precision("fp16", cpu)
    with pytest.raises(ConfigError, match="is not one of"):
        choose_precision("int8", cpu)
    for capability, expected in (((7, 5), "fp16"), ((8, 7), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert choose_precision("auto", cuda) == expected


def test_stage_timer_names_every_stage():
    timer = StageTimer(torch.device("cpu"))
    timer.end_stage("a")
    timer.end_stage("b")
    durations = timer.durations_ms()
    assert list(durations) == ["a", "b"]
    assert all(duration >= 0 for duration in durations.values())


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
    assert is_out_of_memory(error) is expected


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
    assert is_out_of_memory(caught.value)
