"""What stands between options and a loaded model; no rclpy needed."""

from types import SimpleNamespace

import pytest
import torch

from segrgbx_core.base.errors import CheckpointError, ConfigError
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


@pytest.mark.parametrize("pairs", [["lidar"], ["thermal", "lidar"]])
def test_a_pair_of_a_modality_that_the_checkpoint_lacks_is_refused_by_name(checkpoint, pairs):
    options = {"pairs": pairs, "lidar.modality": "lidar", "model.checkpoint": checkpoint}
    with pytest.raises(CheckpointError, match=r"trained for event, .*; asked for lidar"):
        loading.load_segmenter(node_config({**options, "model.device": "cpu"}))


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
