import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.bench import bench
from segrgbx_core.bench import harness as latency
from segrgbx_core.bench.bench import main
from segrgbx_core.bench.cost import Cost, count_cost, count_structures, total_cost
from segrgbx_core.bench.harness import (
    measure,
    measure_in_turns,
    synthetic_sample,
    variants,
    with_changes,
)
from segrgbx_core.model import PRESETS, build_model
from segrgbx_core.model.ma_clip import CLIP_PRESETS, ModalityAwareClip
from segrgbx_core.model.refinement import Structure
from segrgbx_core.runtime.checkpoint import default_contract, random_checkpoint, random_weights
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import encode

TINY, TINY_CLIP = PRESETS["tiny"], CLIP_PRESETS["tiny"]


def test_every_parameter_is_counted_once():
    parts = count_cost(TINY, TINY_CLIP, 71, (64, 64))
    model = build_model(TINY, 71, TINY_CLIP.output_dim)
    ma_clip = ModalityAwareClip(TINY_CLIP)
    expected = sum(p.numel() for module in (model, ma_clip) for p in module.parameters())
    assert total_cost(parts).parameters_m * 1e6 == pytest.approx(expected)
    assert parts["LoRA pool"].gmacs == 0


def test_multiply_adds_of_clip_by_hand():
    parts = count_cost(TINY, TINY_CLIP, 71, (64, 64))
    clip = parts["MA-CLIP image tower, two images"]
    width, depth = TINY_CLIP.embed_dim, TINY_CLIP.depth
    patches = (TINY_CLIP.image_size // TINY_CLIP.patch_size) ** 2
    tokens = patches + 1
    stem = patches * 3 * TINY_CLIP.patch_size**2 * width
    mlp = depth * tokens * 8 * width**2
    attention = depth * (tokens * 4 * width**2 + 2 * tokens**2 * width)
    head = width * TINY_CLIP.output_dim
    assert clip.gmacs * 1e9 == pytest.approx(2 * (stem + mlp + attention + head))
    assert clip.gmacs_paper_convention * 1e9 == pytest.approx(2 * (stem + mlp + head))


def test_multiply_adds_of_vit_b16_are_the_published_ones():
    clip = count_cost(TINY, CLIP_PRESETS["vit_b16"], 71, (64, 64))[
        "MA-CLIP image tower, two images"
    ]
    assert clip.gmacs / 2 == pytest.approx(17.56, abs=0.01)
    assert clip.gmacs_paper_convention / 2 == pytest.approx(11.27, abs=0.01)


def test_more_pixels_cost_more_and_folding_costs_less():
    small = total_cost(count_cost(TINY, TINY_CLIP, 71, (64, 64)))
    large = total_cost(count_cost(TINY, TINY_CLIP, 71, (128, 64)))
    folded = total_cost(count_cost(TINY, TINY_CLIP, 71, (64, 64), folded=True))
    assert folded.gmacs < small.gmacs < large.gmacs
    assert small.parameters_m == large.parameters_m


def test_counting_without_ma_clip():
    parts = count_cost(TINY.model_copy(update={"use_ma_clip": False}), TINY_CLIP, 71, (64, 64))
    assert not any("MA-CLIP" in name or "LoRA" in name for name in parts)


def test_count_report_of_the_papers_model(tmp_path, capsys):
    path = tmp_path / "cost.json"
    assert main(["--count", "--preset", "b2", "--json", str(path)]) == 0
    count = json.loads(path.read_text())
    assert count["tower"] == "vit_b16"
    # The paper's row (h) is 159.40 M and 108.31 GFLOPs.
    assert count["parameters_m"] == pytest.approx(159.40, rel=0.05)
    assert count["gmacs_paper_convention"] == pytest.approx(108.31, rel=0.05)
    assert count["gmacs_folded_head"] < count["gmacs"]
    for key in ("parameters_m", "gmacs", "gmacs_paper_convention"):
        total = sum(part[key] for part in count["parts"].values())
        assert total == pytest.approx(count[key])
    printed = capsys.readouterr().out
    assert "| backbone, two streams" in printed
    assert f"{count['gmacs']:.2f}" in printed


def test_structures_of_table_iv():
    shallow = TINY.backbone.model_copy(update={"depths": (1, 1, 1, 1)})
    model = TINY.model_copy(update={"backbone": shallow})
    costs = count_structures(model, TINY_CLIP, 71, (32, 32))
    assert [structure.value for structure in costs] == list("abcdefghi")
    assert costs[Structure.I].parameters_m < costs[Structure.H].parameters_m
    whole = total_cost(count_cost(model, TINY_CLIP, 71, (32, 32)))
    assert costs[Structure.H].gmacs == pytest.approx(whole.gmacs)
    assert costs[Structure.H].parameters_m == pytest.approx(whole.parameters_m)


def test_structures_are_printed_beside_the_papers(monkeypatch, tmp_path, capsys):
    made_up = {structure: Cost(1.0, 2.0, 1.5) for structure in Structure}
    monkeypatch.setattr(bench, "count_structures", lambda *_: made_up)
    path = tmp_path / "cost.json"
    arguments = ["--structures", "--preset", "tiny", "--input-size", "32x32", "--json", str(path)]
    assert main(arguments) == 0
    structures = json.loads(path.read_text())["structures"]
    assert structures["i"]["gmacs_paper_convention"] == 1.5
    assert "159.40" in capsys.readouterr().out


def test_latency_report(tmp_path, capsys):
    path = tmp_path / "times.json"
    arguments = [
        *("--latency", "--preset", "tiny", "--device", "cpu", "--rgb-size", "96x64"),
        *("--modality", "thermal", "--modality", "event", "--input-size", "64x64"),
        *("--repeats", "3", "--warm-up", "1", "--json", str(path)),
    ]
    assert main(arguments) == 0
    latency = json.loads(path.read_text())["latency"]
    assert latency["setting"]["lora"] == "mixed"
    assert latency["setting"]["input"] == "64x64"
    assert latency["setting"]["precision"] == "fp32"
    stages = latency["stages"]
    assert {"encode", "input", "scene", "model", "decode", "total"} <= stages.keys()
    for times in stages.values():
        assert 0 <= times["min_ms"] <= times["median_ms"] <= times["p95_ms"]
    assert "pairs per second" in capsys.readouterr().out


def test_latency_of_a_checkpoint_with_one_modality_merges(tmp_path, capsys):
    random_checkpoint(tmp_path / "tiny.safetensors")
    arguments = [
        *("--latency", "--checkpoint", str(tmp_path / "tiny.safetensors"), "--device", "cpu"),
        *("--rgb-size", "64x64", "--input-size", "64x64", "--repeats", "1", "--warm-up", "0"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "checkpoint tiny.safetensors" in printed
    assert "lora merged for thermal" in printed


def test_stages_add_up_to_no_more_than_the_total():
    contract = default_contract("tiny")
    segmenter = Segmenter(random_weights(contract), InferenceConfig(device="cpu"))
    samples = [synthetic_sample(MODALITIES[1], 64, 64)]
    stages = measure(segmenter, samples, repeats=1, warm_up=0)
    parts = sum(times["median_ms"] for stage, times in stages.items() if stage != "total")
    assert parts <= stages["total"]["median_ms"]


def test_variants_take_turns_and_pairs_are_compared(tmp_path, capsys):
    path, page = tmp_path / "times.json", tmp_path / "times.md"
    arguments = [
        *("--latency", "--preset", "tiny", "--device", "cpu", "--rgb-size", "64x64"),
        *("--input-size", "64x64", "--repeats", "1", "--warm-up", "1", "--variants", "--pairs"),
        *("--json", str(path), "--markdown", str(page)),
    ]
    assert main(arguments) == 0
    latency = json.loads(path.read_text())["latency"]
    names = list(latency["variants"])
    assert names[0] == "scene of every frame"
    assert {"scene every 5 frames", "scene every 10 frames", "precision: bf16"} < set(names)
    for times in latency["variants"].values():
        assert times["total"]["cpu_mean_ms"] > 0
    kept = latency["variants"]["scene every 10 frames"]
    assert kept["scene"]["median_ms"] < latency["variants"][names[0]]["scene"]["median_ms"]
    assert list(latency["pairs"]) == ["1", "2", "4"]
    assert latency["pairs"]["1"]["time"] == 1
    assert latency["pairs"]["4"]["memory"] >= 0
    assert page.read_text() == capsys.readouterr().out


def test_variants_fit_the_options():
    names = [v.name for v in variants(InferenceConfig(precision="bf16"), "folder", True)]
    assert "precision: fp32" in names
    assert "precision: bf16" not in names
    assert {"compile: true", "backend: onnx"} < set(names)
    assert not any(name.startswith(("cuda_graph", "precision: fp16")) for name in names)
    changed = with_changes(InferenceConfig(), {"scene.refresh_every": 7, "channels_last": False})
    assert (changed.scene.refresh_every, changed.channels_last) == (7, False)
    with pytest.raises(ConfigError, match="unknown"):
        with_changes(InferenceConfig(), {"channels_lost": False})


def test_variants_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(latency, "find_spec", lambda _: object())
    (tmp_path / "frame.pt2").write_bytes(b"")
    chosen = variants(InferenceConfig(), str(tmp_path))
    names = {variant.name for variant in chosen}
    assert {
        "precision: fp16",
        "cuda_graph: true",
        "backend: aot",
        "backend: openvino, bf16",
    } < names
    for variant in chosen:
        with_changes(InferenceConfig(), variant.changes)
    monkeypatch.setattr(latency, "find_spec", lambda _: None)
    names = {variant.name for variant in variants(InferenceConfig(), str(tmp_path / "other"))}
    assert not any("openvino" in name or "aot" in name for name in names)


@pytest.mark.gpu
def test_one_command_measures_all_of_a_gpu(tmp_path):
    """As docs/performance.md gives it, in small."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    path = tmp_path / "gpu.json"
    arguments = [
        *("--compare", "--latency", "--variants", "--pairs", "--cuda-graph", "--device", "cuda"),
        *("--preset", "tiny", "--rgb-size", "96x64", "--input-size", "64x64"),
        *("--repeats", "2", "--warm-up", "1", "--json", str(path)),
    ]
    assert main(arguments) == 0
    report = json.loads(path.read_text())
    assert report["ratios"]["ours_vs_cmx"] > 0
    assert report["latency"]["variants"]["cuda_graph: true"]["total"]["median_ms"] > 0
    assert report["latency"]["pairs"]["4"]["memory"] > 0


def test_nobody_is_always_first():
    order = []

    class Slow:
        def __init__(self, name):
            self.name = name

        def predict(self, samples, streams):
            order.append(self.name)
            return [SimpleNamespace(timings_ms={"model": 1.0})]

    times = measure_in_turns({name: (Slow(name), [], ()) for name in "abc"}, 3, 1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert times["a"]["model"]["mean_ms"] == 1.0
    assert "cpu" not in times["a"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_synthetic_samples_are_what_encoders_take(modality):
    x_image = encode(synthetic_sample(modality, 40, 60))
    assert x_image.dtype == np.float32
    assert x_image.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--count", "--tower", "vit_b61"], "did you mean 'vit_b16'"),
        (["--latency", "--checkpoint", "none.safetensors"], "does not exist"),
        (["--latency", "--preset", "tiny", "--precision", "fp8"], "precision"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_gpu_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--latency", "--preset", "tiny", "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_a_size_without_height_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--latency", "--rgb-size", "640"])
    assert "'640' is no size" in capsys.readouterr().err
