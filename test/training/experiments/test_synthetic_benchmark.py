"""The synthetic benchmark and the twin test: controls, variants, errors, verdicts, the page."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from training import worth_of_x
from training.data.datasets import open_reader
from training.data.datasets.synthetic import XSource
from training.experiments import twin_test, x_ablation
from training.experiments.benchmark import FIRST_TEST_SEED, BenchmarkScores, measurements
from training.experiments.pages import write_benchmark
from training.experiments.trials import (
    SceneScores,
    difference,
    has_ended,
    mean_difference,
    score_scenes,
    steps_done,
    train_in_parallel,
)
from training.experiments.twin_test import Verdict, twin_runs
from training.experiments.variants import (
    BENCHMARK,
    COMPONENTS,
    EQUAL_PER_MODALITY,
    EQUAL_TOTAL,
    SCALES,
    SPECIALISTS,
    benchmark_run,
    benchmark_runs,
)
from training.stage2.config import read_run
from training.world.records import Record, load_record, save_record
from training.world.twins import FIRST, SECOND

NUM = SYNTHETIC_STREET.num_classes
SMALL = ["model.backbone.embed_dims=[8,16,24,32]", "model.backbone.depths=[1,1,1,1]",
         "ma_clip.image_size=32", "ma_clip.depth=1", "run.batch_size=2"]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Two scenes of two frames, thermal and light field, in both splits."""
    rng = np.random.default_rng(3)
    for split in ("train", "test", "val"):
        (tmp_path / split).mkdir()
        for scene in range(2):
            for frame in range(2):
                labels = rng.integers(0, NUM, (2, 2), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
                record = Record(
                    seed=scene,
                    stamp_ns=7,
                    rgb=rng.integers(0, 255, (32, 32, 3), dtype=np.uint8),
                    labels=labels,
                    meta={"time_of_day": "night", "corruption": "none"},
                    x_stamp_ns=7,
                    thermal=rng.integers(28000, 31000, (32, 32), dtype=np.uint16),
                    light_field=rng.integers(0, 255, (1, 32, 32, 3), dtype=np.uint8),
                )
                save_record(tmp_path / split / f"{scene:05d}_{frame:02d}.npz", record)
    return tmp_path


def sample(data, x, index=0, modality=Modality.THERMAL):
    return open_reader("synthetic_street", data, "val", modality, {"x": x.value})[index].sample


def test_controls_stand_in_for_x(data):
    own, other = sample(data, XSource.OWN), sample(data, XSource.OTHER)
    none, twice = sample(data, XSource.NONE), sample(data, XSource.RGB)
    for one in (other, none, twice):
        np.testing.assert_array_equal(one.rgb, own.rgb)
    assert not none.x.any()
    assert none.x_form is XForm.IMAGE
    np.testing.assert_array_equal(twice.x, own.rgb)
    # The other X is that of the other scene, frame by frame.
    np.testing.assert_array_equal(other.x, sample(data, XSource.OWN, 2).x)
    assert (other.x != own.x).any()


def test_rooms_are_not_taken_for_streets(data):
    path = data / "val" / "00000_00.npz"
    save_record(path, replace(load_record(path), label_space="nyu"))
    assert load_record(path).label_space == "nyu"
    with pytest.raises(DataError, match=r"00000_00.npz: holds labels of 'nyu'"):
        sample(data, XSource.OWN)


def test_every_variant_is_equal_but_for_what_it_tests(tmp_path):
    scale = SCALES["reduced"]
    runs = {one.name: benchmark_run(one, 0, scale, tmp_path, tmp_path) for one in BENCHMARK}
    assert len(runs) == len(BENCHMARK) == 2 + 5 + 2 + len(COMPONENTS.variants) - 1
    steps = {name: run.run.steps for name, run in runs.items()}
    assert steps[EQUAL_PER_MODALITY.name] == sum(steps[one.name] for one in SPECIALISTS)
    assert steps[EQUAL_TOTAL.name] == steps[SPECIALISTS[0].name] == scale.steps
    for name, run in runs.items():
        assert run.augment == runs["rgb_only"].augment
        assert run.optimizer == runs["rgb_only"].optimizer
        assert (run.model == runs["generalist"].model) is not name.startswith("component_")
    assert not runs["component_without_dsrm"].model.use_dsrm
    assert {data.options["x"] for data in runs["rgb_only"].data} == {"none"}
    assert [data.modality for data in runs["generalist"].data] == list(MODALITIES)


def test_training_and_test_scenes_never_meet():
    for scale in SCALES.values():
        assert scale.train_scenes < 10_000 <= FIRST_TEST_SEED
        assert FIRST_TEST_SEED + scale.test_scenes <= 30_000


def test_full_scale_may_speak_of_components(tmp_path):
    full = SCALES["full"]
    assert full.test_scenes >= 300
    assert len(full.component_seeds) >= 5
    runs = benchmark_runs(full, tmp_path, tmp_path)
    assert {run.run.seed for name, run in runs.items() if name.startswith("component_")} == set(
        full.component_seeds
    )
    assert len({run.run.out for run in runs.values()}) == len(runs)


def scores_of(rate, scenes=40, seed=0):
    """A model that is right in `rate` of the pixels, scene by scene with some chance."""
    rng = np.random.default_rng(seed)
    matrices = np.zeros((scenes, NUM, NUM + 1), np.int64)
    for matrix in matrices:
        for true in range(4):
            right = int(rng.binomial(200, rate))
            matrix[true, true] += right
            matrix[true, (true + 1) % 4] += 200 - right
    return SceneScores(
        matrices, {"normal": np.arange(0, scenes, 2), "night": np.arange(1, scenes, 2)}
    )


def test_difference_is_exact_and_its_spread_is_that_of_the_scenes():
    better, worse = scores_of(0.9, seed=1), scores_of(0.8, seed=2)
    found = difference([better], [worse])
    assert found.mean == pytest.approx(better.miou - worse.miou)
    assert found.seed_sd is None
    assert (found.seeds, found.scenes) == (1, 40)
    # IoU r / (2 - r) per class of 40 binomial scenes of 200 pixels; 4 nearly independent classes.
    slope = lambda r: 2 / (2 - r) ** 2  # noqa: E731
    variance = sum(slope(r) ** 2 * r * (1 - r) / 8000 for r in (0.9, 0.8)) / 4
    assert found.scene_sd == pytest.approx(100 * variance**0.5, rel=0.5)
    assert difference([better], [better]).scene_sd == 0
    two = difference([better, worse], [worse, better])
    assert two.mean == pytest.approx(0)
    assert two.seed_sd == pytest.approx(np.sqrt(2) * (better.miou - worse.miou))


def test_a_mean_of_comparisons_has_the_spread_of_what_they_share():
    better, worse = scores_of(0.9, seed=1), scores_of(0.8, seed=2)
    one = difference([better], [worse])
    five = mean_difference([([better], [worse])] * 5)
    assert five.mean == pytest.approx(one.mean)
    assert five.scene_sd == pytest.approx(one.scene_sd), "five times the same says no more"
    third = scores_of(0.9, seed=3)
    two = mean_difference([([better], [worse]), ([third], [worse])])
    assert two.mean == pytest.approx((one.mean + difference([third], [worse]).mean) / 2)


def test_a_group_is_compared_on_its_own_scenes():
    better, worse = scores_of(0.9, seed=1), scores_of(0.8, seed=2)
    night = difference([better], [worse], "night")
    assert night.scenes == 20
    assert night.mean == pytest.approx(better.group_miou("night") - worse.group_miou("night"))


def test_named_classes_are_compared_alone():
    better, worse = scores_of(0.9, seed=1), scores_of(0.8, seed=2)
    names = SYNTHETIC_STREET.names[:2]
    gain = difference([better], [worse], names=names)
    assert gain.mean == pytest.approx(better.classes_iou(names) - worse.classes_iou(names))
    assert gain.mean != difference([better], [worse]).mean


def test_the_worth_of_x_is_told_with_its_spread(monkeypatch, capsys, tmp_path):
    answers = {XSource.OWN: 0.9, XSource.OTHER: 0.5, XSource.NONE: 0.8}
    asked = []

    def answer(checkpoint, data, modality, x, device):
        asked.append((checkpoint.name, modality, x))
        return scores_of(answers[x], seed=len(x.value))

    monkeypatch.setattr(x_ablation, "score_scenes", answer)
    assert worth_of_x.main(["ours", "rgb", "--root", str(tmp_path), "--device", "cpu"]) == 0
    assert [one for one in asked if one[0] == "rgb"] == [("rgb", MODALITIES[0], XSource.NONE)]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + len(MODALITIES)
    own, rgb = (scores_of(answers[x], seed=len(x.value)) for x in (XSource.OWN, XSource.NONE))
    gain = difference([own], [rgb])
    cells = f"| thermal | {own.miou:.1f} | {rgb.miou:.1f} | {gain} |"
    assert any(line.startswith(cells) for line in lines)


def test_score_survives_its_file(tmp_path):
    saved = scores_of(0.7)
    saved.save(tmp_path / "a.npz")
    back = SceneScores.load(tmp_path / "a.npz")
    assert back.miou == saved.miou
    assert back.group_miou("normal") == saved.group_miou("normal")
    assert back.group_miou("normal") != back.group_miou("night")
    assert np.isnan(back.group_miou("motion_blur"))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.npz: is no \.npz file"):
        SceneScores.load(tmp_path / "a.npz")
    for arrays in (
        {},
        {"scenes": np.zeros((2, 3, 3), int)},
        {"scenes": saved.scenes, "group x": [99]},
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=r"a\.npz: holds no scores by scene"):
            SceneScores.load(tmp_path / "a.npz")


def test_page_holds_every_table_and_says_what_it_cannot(tmp_path):
    scale = replace(SCALES["reduced"], seeds=(0, 1))
    scores = {one.name: scores_of(0.8, seed=n) for n, one in enumerate(measurements(scale))}
    page = write_benchmark(tmp_path, BenchmarkScores("reduced", scale, scores, 1.0)).read_text()
    for text in (
        "no statement about real roads",
        "RGB fed twice",
        "| thermal |",
        f"one generalist, equal steps per modality | {5 * scale.steps}",
        "night, 20 scenes",
        "Not better than RGB fed twice by two standard errors: ",
        "without DSRM",
        "Nothing can be concluded about components",
        "Figure 9 in small",
    ):
        assert text in page, text
    assert "nan" not in page
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["synthetic"] is True
    assert set(plain["scores"]) == set(scores)
    for name in ("modalities.png", "robustness.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_runs_train_in_processes_and_are_not_repeated(data, tmp_path):
    runs = {
        name: read_run(
            twin_test.RUN_FILE,
            [*SMALL, f"run.out={tmp_path / name}", "run.steps=2", "input.height=32",
             "input.width=32", "augment.crop_height=32", "augment.crop_width=32",
             f"data=[{{reader: synthetic_street, root: {data}, modality: thermal}}]"],
        )
        for name in ("a", "b")
    }  # fmt: skip
    assert steps_done(tmp_path / "a") == 0
    found = train_in_parallel(runs, 1, poll_s=0.2)
    assert all(path.exists() for path in found.values())
    assert all(has_ended(run) for run in runs.values())
    before = {name: path.stat().st_mtime_ns for name, path in found.items()}
    train_in_parallel(runs, 1, poll_s=0.2)
    assert {name: path.stat().st_mtime_ns for name, path in found.items()} == before
    scored = score_scenes(found["a"], data, Modality.THERMAL, XSource.OWN, "cpu")
    assert scored.scenes.shape == (2, NUM, NUM + 1)
    assert scored.scenes.sum() == 4 * 32 * 32
    assert set(scored.groups) == {"night", "normal"}
    assert 0 <= scored.miou <= 100


def test_twin_models_differ_in_x_alone(tmp_path):
    roots = {modality: tmp_path / modality.value for modality in MODALITIES}
    runs = twin_runs(roots, tmp_path)
    assert set(runs) == {"generalist", "rgb_only"}
    generalist, rgb_only = runs["generalist"], runs["rgb_only"]
    assert {one.options["x"] for one in generalist.data} == {"own"}
    assert {one.options["x"] for one in rgb_only.data} == {"none"}
    same = {"out": ""}
    assert generalist.run.model_copy(update=same) == rgb_only.run.model_copy(update=same)
    # Nothing may change what X means: size belongs to distance, sides to parallax.
    assert generalist.augment.min_scale == generalist.augment.max_scale == 1
    assert generalist.augment.flip == 0


def test_twins_are_judged_by_the_bars(monkeypatch):
    passed = Verdict(with_x=0.93, other_x=0.45, rgb_only=0.55, found=0.9)
    assert passed.is_passed
    assert not replace(passed, with_x=0.89).is_passed
    assert not replace(passed, rgb_only=0.57).is_passed  # RGB leaks the class
    assert not replace(passed, other_x=0.59).is_passed  # X is not what decides
    matrix = np.zeros((NUM, NUM + 1), np.int64)
    matrix[FIRST, [FIRST, SECOND, 0]] = 60, 20, 20
    matrix[SECOND, [SECOND, FIRST]] = 90, 10
    report = SimpleNamespace(matrix=SimpleNamespace(matrix=matrix))
    monkeypatch.setattr(twin_test, "open_reader", lambda *_: None)
    monkeypatch.setattr(twin_test, "evaluate", lambda *_, **__: report)
    right, found = twin_test.twin_accuracy("c", "r", Modality.EVENT, XSource.OWN)
    assert right == pytest.approx(150 / 180)
    assert found == pytest.approx(180 / 200)
