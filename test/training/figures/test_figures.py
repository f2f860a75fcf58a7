"""Figures: what they show is what the model did, and the words on them are true."""

import numpy as np
import pytest
import torch
import yaml

from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.runtime.batch import InputConfig, Placement
from segrgbx_core.runtime.checkpoint import load_checkpoint, random_checkpoint
from training.data import datasets
from training.data.datasets.labelled_sample import Labelled
from training.figures import __main__ as figures
from training.figures.embedding_map import caption, map_embeddings, without_adapters
from training.figures.feature_maps import feature_sheet, heat, record_stages, stage_maps
from training.figures.inputs import open_figure_splits, origin_note
from training.figures.panels import entries, panel_sheet, pick_failures, pick_frames
from training.stage2.config import read_run

ROAD, PERSON, SKY = 0, 9, 3
SIZE = (48, 64)


class Squares:
    """Warm squares, thermal or light field; every second frame over-exposed."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        del root, split
        self.modality = modality

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        labels = np.full(SIZE, ROAD, np.uint8)
        labels[8:32, 8:32] = PERSON
        labels[:2] = 255
        rgb = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        thermal = np.where(labels == PERSON, 30500, 28000).astype(np.uint16)
        x = thermal if self.modality is Modality.THERMAL else 255 - rgb
        groups = ("night", "over_exposure") if index % 2 else ("day",)
        return Labelled(RgbxSample(rgb, x, self.modality), labels, f"frame{index}", groups)


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    monkeypatch.setitem(datasets.READERS, "squares", Squares)


@pytest.fixture
def run_file(tmp_path):
    data = [{"reader": "squares", "root": ".", "modality": name} for name in
            ("thermal", "light_field")]  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"preset": "tiny", "tower": "tiny", "data": data}))
    return path


def write_checkpoint(path, preset="tiny", **changes):
    space = synthetic_label_space().to_dict()
    size = InputConfig(height=64, width=96, resize_mode="letterbox")
    random_checkpoint(path, preset, label_space=space, input=size, **changes)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "both.safetensors")


@pytest.fixture(scope="module")
def thermal_only(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "thermal.safetensors"
    return write_checkpoint(path, modalities=(Modality.THERMAL,))


@pytest.fixture
def splits(run_file):
    run = read_run(run_file, ["run.out=."])
    return open_figure_splits(run.data, run.sensor)


def colours(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3)}


def test_splits_say_what_they_are(splits, checkpoint):
    assert [split.title for split in splits] == [
        "squares (synthetic), thermal",
        "squares (synthetic), light field",
    ]
    note = origin_note(splits, [load_checkpoint(checkpoint).contract])
    assert note == "Synthetic scenes, rendered, no real camera. Untrained random weights."


def test_frames_are_those_of_scores(splits):
    shown = [pick.item.name for pick in pick_frames(splits[:1], 4)]
    assert shown == [f"frame{index}" for index in datasets.spread(6, 4)]


def test_map_without_adapters_is_the_frozen_base(checkpoint):
    ma_clip = load_checkpoint(checkpoint).ma_clip
    base = without_adapters(ma_clip)
    images = torch.rand(2, 3, 64, 64)
    none = torch.full((2,), -1)
    plain = base.embed(base.prepare(images), none)
    assert torch.allclose(plain, ma_clip.embed(ma_clip.prepare(images), none), atol=1e-6)
    adapted = ma_clip.embed(ma_clip.prepare(images), torch.tensor([1, 1]))
    assert not torch.allclose(plain, adapted, atol=1e-3)


def test_embedding_map_is_repeatable_and_drawn(run_file, splits, checkpoint, tmp_path, capsys):
    loaded = load_checkpoint(checkpoint)
    first, second = (map_embeddings(loaded, splits, 4, seed=3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        for key, points in one.points.items():
            assert points.shape == (4, 2)
            assert np.array_equal(points, other.points[key])
    assert set(first[0].points) == {(s.title, stream) for s in splits for stream in ("RGB", "X")}
    adapted, plain = first
    assert adapted.scores != plain.scores
    text = caption(first, splits, loaded, seed=3)
    assert f"silhouette {adapted.scores['silhouette']:.2f}" in text
    assert f"silhouette {plain.scores['silhouette']:.2f}" in text
    assert "16 images from the val split" in text
    assert "Synthetic" in text

    out = tmp_path / "deep" / "map.png"
    assert figures.main(["embeddings", str(checkpoint), str(run_file), "--out", str(out)]) == 0
    assert "24 images" in capsys.readouterr().out
    picture = read_image(out)[..., :3]
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1400
    halves = np.array_split(picture[150:-150], 2, axis=1)
    for half in halves:  # both panels hold both modalities' colours
        assert {(213, 94, 0), (0, 114, 178)} <= colours(half)


def test_too_few_images_or_untrained_modalities_are_refused(splits, checkpoint, thermal_only):
    with pytest.raises(DataError, match="2 images are too few"):
        map_embeddings(load_checkpoint(checkpoint), splits[:1], 1, seed=0)
    with pytest.raises(CheckpointError, match="trained for thermal; asked for light_field"):
        map_embeddings(load_checkpoint(thermal_only), splits, 2, seed=0)


def test_hooks_catch_the_streams_and_leave_nothing_behind(checkpoint):
    model = load_checkpoint(checkpoint).model
    images = torch.rand(2, 1, 3, 64, 96)
    arguments = (*images, *torch.rand(2, 1, 64), torch.tensor([1]))
    with torch.no_grad():
        expected = model(*arguments)
        with record_stages(model) as found:
            assert torch.equal(model(*arguments), expected)
        alone = model.backbone.stages[0](
            model.normalised(*images), model.encode_scene(*arguments[2:]).prompt_kv[0]
        )
    assert torch.equal(found["stage_1"], alone)
    assert torch.equal(found["before"], found["stage_4"])
    assert not torch.equal(found["before"], found["after"])
    assert found["fused_4"].shape == (1, 112, 2, 3)
    kept = dict(found)
    with torch.no_grad():
        model(*arguments)
    assert found == kept


def test_heat_is_the_distance_from_the_mean_place():
    features = torch.zeros(2, 2, 2)
    features[:, 0, 0] = torch.tensor([3.0, 4.0])
    values = heat(features)
    assert values[0, 0] == pytest.approx(5 * 3 / 4)
    assert values[1, 1] == pytest.approx(5 / 4)
    assert np.array_equal(heat(features + 7), values)


def test_stage_maps_follow_the_model(splits, checkpoint):
    maps = stage_maps(load_checkpoint(checkpoint), splits[0].reader[0], splits[0])
    shapes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    for stream in maps.streams:
        assert [one.shape for one in stream] == shapes
    assert [one.shape for one in maps.fused] == shapes
    assert len(maps.refined) == 2
    assert all(change > 0 for change in maps.change)
    assert maps.placement == Placement(0, 5, 64, 85, *SIZE)
    assert maps.labels.shape == SIZE
    own = set(synthetic_label_space().project_index("synthetic_street"))
    assert set(np.unique(maps.labels)) <= own


def test_feature_sheet_has_a_row_per_stream(run_file, splits, checkpoint, tmp_path):
    picture = feature_sheet(load_checkpoint(checkpoint), splits, 1, cell_width=100)
    one = feature_sheet(load_checkpoint(checkpoint), splits[:1], 1, cell_width=100)
    assert picture.shape[1] == one.shape[1] == 6 * 110 - 10 + 56
    assert picture.shape[0] > one.shape[0] + 3 * 75
    assert (68, 1, 84) in colours(picture)  # the darkest colour of the scale
    out = tmp_path / "features.png"
    assert figures.main(["features", str(checkpoint), str(run_file), "--out", str(out)]) == 0
    assert read_image(out).shape[1] == 6 * 200 - 10 + 56


def test_feature_maps_without_dsrm_and_of_baselines(splits, tmp_path):
    model = load_checkpoint(write_checkpoint(tmp_path / "full.safetensors")).contract.model
    plain = model.model_copy(update={"use_dsrm": False})
    loaded = load_checkpoint(write_checkpoint(tmp_path / "plain.safetensors", model=plain))
    maps = stage_maps(loaded, splits[0].reader[0], splits[0])
    assert (maps.refined, maps.change) == ((), ())
    sheet = feature_sheet(loaded, splits[:1], 1, cell_width=100)
    assert sheet.shape[1] == 5 * 110 - 10 + 56
    cmx = load_checkpoint(write_checkpoint(tmp_path / "cmx.safetensors", "cmx_tiny"))
    with pytest.raises(ConfigError, match="is cmx; feature maps are of segrgbx"):
        stage_maps(cmx, splits[0].reader[0], splits[0])


def test_panels_show_truth_and_answers_in_unified_colours(splits, checkpoint, thermal_only):
    columns = entries([str(checkpoint), f"specialist={thermal_only}"])
    assert [entry.title for entry in columns] == ["both (random)", "specialist (random)"]
    picks = pick_frames(splits, 2)
    assert [pick.item.name for pick in picks] == ["frame0", "frame5"] * 2
    sheet = panel_sheet(columns, picks, cell_width=120)
    assert sheet.shape[1] == 5 * 130 - 10 + 56
    space = synthetic_label_space()
    unified = space.unify(np.array([ROAD, PERSON], np.uint8), "synthetic_street")
    left = 28 + 2 * 130  # the column of the truth
    truth = colours(sheet[:, left : left + 120])
    assert {tuple(space.palette[i]) for i in unified} <= truth
    # The specialist answers thermal and leaves the cells of the other modality empty.
    tinted = {colour for colour in space.palette if max(colour) - min(colour) > 30}
    for rows, is_answered in ((picks[:2], True), (picks[2:], False)):
        body = panel_sheet(columns, rows, cell_width=120)[130:360]  # between titles and legend
        assert bool(tinted & colours(body[:, 28 + 4 * 130 :])) is is_answered


def test_panels_by_failure(run_file, splits, checkpoint, tmp_path, capsys):
    picks = pick_failures(splits, 2)
    assert [pick.item.name for pick in picks] == ["frame1", "frame5"] * 2
    assert {pick.failure for pick in picks} == {"over-exposure (OE)"}
    out = tmp_path / "panels.png"
    arguments = ["panels", str(checkpoint), str(run_file), "--out", str(out), "--corruptions"]
    assert figures.main(arguments) == 0
    assert "4 frames" in capsys.readouterr().out
    assert read_image(out).std() > 20


def test_panels_refuse_what_they_cannot_show(splits, thermal_only, monkeypatch):
    with pytest.raises(ConfigError, match="no checkpoint was trained for light_field"):
        panel_sheet(entries([str(thermal_only)]), pick_frames(splits[1:], 1))
    monkeypatch.setattr(Squares, "__len__", lambda self: 1)  # the first frame is sound
    with pytest.raises(DataError, match="no frame's groups name a failure"):
        pick_failures(splits, 1)


def test_mistakes_are_one_line_and_exit_2(run_file, checkpoint, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.png")]
    assert figures.main(["features", "missing.safetensors", str(run_file), *out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    arguments = ["panels", str(checkpoint), str(run_file), *out, "--samples", "0"]
    assert figures.main(arguments) == 2
    assert "--samples 0" in capsys.readouterr().err
