"""What speed costs: variants, turns, streams, and what the command writes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.bench.harness import Variant
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_checkpoint
from training.data.datasets import open_reader
from training.experiments.accuracy_vs_latency import (
    EXACT,
    Comparison,
    below_limit,
    draw,
    scene_of,
    speed,
    to_markdown,
    variants,
)
from training.speed_cost import main
from training.world.records import Record, save_record
from training.world.render import frame_times

SIZE = (64, 64)
INPUT = InputConfig(height=SIZE[0], width=SIZE[1])
SPACE = synthetic_label_space().to_dict()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes of three frames, noise with labels, and a checkpoint that has learned nothing."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "val").mkdir()
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        for frame in range(3):
            record = Record(
                seed=seed,
                stamp_ns=frame * 100_000_000,
                x_stamp_ns=frame * 100_000_000,
                rgb=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
                labels=rng.integers(0, 16, SIZE, dtype=np.uint8),
                thermal=rng.integers(28000, 31000, SIZE, dtype=np.uint16),
            )
            save_record(folder / "val" / f"{seed:05d}_{frame:02d}.npz", record)
    random_checkpoint(folder / "tiny.safetensors", input=INPUT, label_space=SPACE)
    return folder


def comparison(data, **changes):
    reader = open_reader("synthetic_street", data, "val", Modality.THERMAL)
    return Comparison(data / "tiny.safetensors", reader, device="cpu", **changes)


def test_scenes_are_streams_and_keep_their_looks(data):
    kept = Variant("kept", {"scene.refresh_every": 2})
    [result], missing = comparison(data).measure({"refresh_every": [kept]})
    assert missing == {}
    assert result["exact"]["looks"] == 1
    assert result["exact"]["agreement"] == 1
    [form] = result["forms"]
    assert form["looks"] == pytest.approx(4 / 6)  # frames 0 and 2 of both scenes
    assert 0 < form["agreement"] <= 1
    assert form["cpu_ms"] > 0


def test_limits(data):
    [result], _ = comparison(data, scenes=1, frames=2).measure({"precision": [EXACT]})
    assert result["forms"][0]["miou"] == result["exact"]["miou"]
    frames = comparison(data, scenes=1, frames=2).frames_by_scene()
    assert [(item.name, scene) for item, scene in frames] == [
        ("00001_00", "00001"), ("00001_01", "00001"),
    ]  # fmt: skip


def test_what_cannot_be_run_is_said(data):
    groups = {
        "precision": [Variant("fp16", {"precision": "fp16"})],
        "backend": variants(SIZE)["backend"][1:3],  # CUDA graph, ONNX Runtime
    }
    results, missing = comparison(data, scenes=1, frames=1).measure(groups)
    assert results == []
    assert "fp16 is not supported on a CPU" in missing["fp16"]
    assert "needs a CUDA device" in missing["CUDA graph"]
    assert "needs --exported" in missing["ONNX Runtime"]


def test_exports_of_other_checkpoints_are_refused(data, monkeypatch):
    """Both would run, and the table would compare two models."""
    onnx = Variant("ONNX Runtime", {"backend": "torch"})
    path = data / "other.safetensors"
    other = comparison(data, exported=str(path))
    random_checkpoint(path, seed=1, label_space=SPACE, input=INPUT)
    _, missing = other.measure({"backend": [onnx]})
    assert "was exported from another checkpoint; export anew" in missing["ONNX Runtime"]


def test_the_exact_form_must_run(data, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    blind = replace(comparison(data), device="cuda")
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        blind.measure({"precision": [EXACT]})


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("00003_00", "00003"),
        ("cloud/MAP_10_point102/045050", "cloud/MAP_10_point102"),
        ("00055D", "00055D"),
    ],
)
def test_names_of_scenes(name, scene):
    assert scene_of(name) == scene


def test_sizes_are_multiples_of_sixteen_and_every_option_exists():
    groups = variants((240, 320), (0.5, 1.5))
    assert [form.name for form in groups["input size"]] == ["160x128", "480x352"]
    assert set(groups) == {"refresh_every", "precision", "input size", "backend"}
    tiny = variants((64, 64), (0.1,))["input size"][0]
    assert tiny.changes == {"input_height": 32, "input_width": 32}


def form(name, agreement, cpu, wall=10.0, device="cpu"):
    return {
        "name": name, "miou": 0.5, "agreement": agreement, "worst_agreement": agreement,
        "wall_ms": wall, "p95_ms": wall, "cpu_ms": cpu, "looks": 1.0, "device": device,
    }  # fmt: skip


def made_report():
    return {
        "checkpoint": "a.safetensors", "hash": "f" * 64, "data": "x", "trained_input": "64x64",
        "missing": {"fp16": "not on a CPU"},
        "groups": [
            {"group": "precision", "exact": form("exact", 1.0, 20.0),
             "forms": [form("bf16", 0.9949, 10.0)]},
            {"group": "input size", "exact": form("exact", 1.0, 20.0),
             "forms": [form("32x32", 0.5, 5.0)]},
        ],
    }  # fmt: skip


def test_report_shows_losses_speed_and_limits(tmp_path):
    report = made_report()
    page = to_markdown(report)
    assert "| bf16 | 50.00 | +0.00 | 99.49 % | 99.49 % | 10.0 | 10.0 | 10.0 | 2.00 |" in page
    assert "- not run: fp16: not on a CPU" in page
    assert below_limit(report) == ["bf16"]  # another size may answer otherwise
    assert "fewer than 99.5 % of the labels are the exact form's: bf16" in page
    report["groups"][0]["forms"][0]["agreement"] = float("nan")
    assert below_limit(report) == ["bf16"]
    on_gpu = form("exact", 1.0, 20.0, device="cuda:0 (a GPU)")
    assert speed(form("bf16", 1.0, 10.0, wall=2.5), on_gpu) == 4
    draw(made_report(), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_command_writes_page_figures_and_chart(data, tmp_path, capsys):
    arguments = [
        str(data / "tiny.safetensors"), "--root", str(data), "--scenes", "1", "--frames", "1",
        "--only", "input size", "--scales", "0.5", "--device", "cpu", "--out", str(tmp_path),
        "--check",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert capsys.readouterr().out == (tmp_path / "speed_cost.md").read_text()
    report = json.loads((tmp_path / "speed_cost.json").read_text())
    assert [form["name"] for form in report["groups"][0]["forms"]] == ["32x32"]
    assert (tmp_path / "speed_cost.png").is_file()
    assert main([str(data / "none.safetensors"), "--root", str(data)]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_check_fails_where_labels_change(data, monkeypatch, capsys):
    monkeypatch.setattr(Comparison, "measure", lambda *_: (made_report()["groups"], {}))
    arguments = [str(data / "tiny.safetensors"), "--root", str(data)]
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 1
    assert "bf16" in capsys.readouterr().out


def test_rendered_frames_at_an_interval():
    times = frame_times(3, 4, 0.1)
    assert np.allclose(np.diff(times), 0.1)
    assert frame_times(3, 4) == frame_times(3, 4, 0.0)
    assert min(np.diff(frame_times(3, 4))) > 0.4
