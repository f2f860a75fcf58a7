"""`segrgbx-bench --compare`: who takes part, how times become figures, what is written."""

import json

import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.bench import compare as module
from segrgbx_core.bench.bench import main
from segrgbx_core.bench.compare import MODELS, RATIOS, CompareSetting, compare, table
from segrgbx_core.bench.compare import _statistics as statistics
from segrgbx_core.bench.compare import _take_turns as take_turns
from segrgbx_core.bench.harness import synthetic_sample


def setting(**changes):
    sample = synthetic_sample(Modality.THERMAL, 64, 64)
    small = {"preset": "tiny", "tower": "tiny", "size": (64, 64), "rounds": 1, "warm_up": 0}
    return CompareSetting(sample, **{**small, "refresh_every": 2, **changes})


def test_every_model_is_measured_and_every_ratio_given():
    report = compare(setting())
    assert list(report["models"]) == list(MODELS)
    among_these = {name for name, pair in RATIOS.items() if set(pair) <= set(MODELS)}
    assert set(report["ratios"]) == set(report["cpu_ratios"]) == among_these
    for name, (low, high) in report["cpu_spread"].items():
        assert low == high == pytest.approx(report["cpu_ratios"][name])  # of one round
    for key, model in report["models"].items():
        assert 0 < model["min_ms"] <= model["median_ms"]
        assert model["frames"] == (2 if key in ("segrgbx_fast", "segrgbx_mixture") else 1)
        assert model["paper_ms"] is None  # the paper's figures are of another size
    gmacs = {key: model["gmacs"] for key, model in report["models"].items()}
    assert gmacs["segrgbx_mixture"] < gmacs["segrgbx_fast"]
    assert gmacs["segrgbx_fast"] < gmacs["segrgbx_fast_every_frame"] < gmacs["segrgbx_merged"]
    medians = {key: model["median_ms"] for key, model in report["models"].items()}
    assert report["ratios"]["ours_vs_cmx"] == medians["segrgbx_fast"] / medians["cmx_fast"]
    header, rows = table(report)
    assert [len(row) for row in rows] == [len(header)] * len(MODELS)


def test_fast_and_plain_label_alike(monkeypatch):
    """Both styles are one function of the images; where they differ, two classes were near."""
    answers = {}
    chosen = setting(only=("cmx", "cmx_fast", "segrgbx_merged", "segrgbx_fast_every_frame"))
    monkeypatch.setattr(
        module,
        "_take_turns",
        lambda contenders, *_: {
            key: answers.update({key: one.run(True)}) or [(1.0, 1.0)]
            for key, one in contenders.items()
        },
    )
    compare(chosen)
    for plain, fast in (("cmx", "cmx_fast"), ("segrgbx_merged", "segrgbx_fast_every_frame")):
        ours = torch.from_numpy(answers[fast][0][0])
        assert (answers[plain][0] == ours).float().mean() > 0.95


def test_models_take_turns_and_nobody_is_always_first():
    order = []

    def contender(name, frames):
        return module.Contender(name, frames, lambda new: order.append((name, new)), 0.0, 0.0)

    frames = take_turns({"a": contender("a", 1), "b": contender("b", 10)}, 2)
    a, b = [("a", True)], [("b", True), ("b", False)]
    assert order == [*a, *b, *b, *a]
    assert [len(frames[name]) for name in "ab"] == [2, 4]


def test_a_kept_scene_is_paid_by_all_frames_that_share_it():
    """One frame with a new scene stands for one in ten, one with a kept scene for nine."""
    times = [(12.0, 24.0), (2.0, 4.0), (32.0, 64.0), (4.0, 8.0), (12.0, 24.0), (2.0, 4.0)]
    found = statistics(times, 10)
    assert found["median_ms"] == 3.0
    assert found["cpu_median_ms"] == 6.0
    assert found["min_ms"] == 3.0
    assert found["p95_ms"] == pytest.approx(12.0)
    assert found["frames"] == 6


def test_a_frame_with_a_scene_of_its_own_counts_once():
    found = statistics([(10.0, 20.0), (2.0, 4.0), (30.0, 60.0)], 1)
    assert (found["median_ms"], found["cpu_median_ms"]) == (10.0, 20.0)


def test_scenes_are_made_when_they_are_due():
    looks = []

    class Engine:
        def encode_scene(self, batch):
            looks.append(len(looks))
            return looks[-1]

        def coarse_logits(self, batch, scene):
            assert scene == looks[-1]
            return torch.zeros(1, 3, 8, 8)

    chosen = setting()
    run = module._fast(Engine(), module._batch(chosen, torch.device("cpu")), chosen.size)
    for is_new in (True, False, False, True, False, True):
        run(is_new)
    assert len(looks) == 3


@pytest.mark.slow
def test_an_exported_model_takes_part_and_labels_alike(monkeypatch):
    """What runs in OpenVINO answers as the same network in PyTorch does."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    answers = {}

    def once(contenders, *_):
        answers.update({key: one.run(True)[0][0] for key, one in contenders.items()})
        return {key: [(2.0, 3.0), (1.0, 2.0)] for key in contenders}

    monkeypatch.setattr(module, "_take_turns", once)
    chosen = ("segrgbx_mixture", "segrgbx_mixture_openvino")
    lines = []
    report = compare(setting(only=chosen), lines.append)
    assert (answers[chosen[0]] == answers[chosen[1]]).mean() > 0.995
    assert [report["models"][key]["cpu_median_ms"] for key in chosen] == [2.5, 2.5]
    assert "tracing the frame's network" in lines


def test_exported_models_are_asked_for():
    assert module._chosen(setting()) == list(MODELS)
    assert module._chosen(setting(openvino=True)) == [*MODELS, *module.OPENVINO_MODELS]
    assert module._chosen(setting(only=("cmx_openvino", "cmx"))) == ["cmx", "cmx_openvino"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"only": ("cmxx",)}, r"model 'cmxx' is not known \(did you mean 'cmx'\?\)"),
        ({"preset": "b5"}, "preset 'b5': baselines come as tiny, b0, b1 and b2"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        compare(setting(**change))


def test_program_writes_report_and_chart(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["--compare", "--preset", "tiny", "--input-size", "64x64", "--repeats", "1",
                 "--warm-up", "0", "--only", "cmx_fast", "--only", "segrgbx_fast",
                 "--refresh-every", "2", "--chart", str(tmp_path / "c.png"),
                 "--json", str(tmp_path / "r.json")]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| SegRGB-X, fast, scene kept" in printed
    assert "ours_vs_cmx:" in printed
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["ratios"]["ours_vs_cmx"] > 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_are_counted_and_have_no_structures(capsys):
    assert main(["--count", "--preset", "cmx_tiny", "--input-size", "64x64"]) == 0
    assert "| backbone of X" in capsys.readouterr().out
    assert main(["--structures", "--preset", "cmx_tiny", "--input-size", "64x64"]) == 2
    assert "cmx_tiny has no DSRM" in capsys.readouterr().err
