"""A modality is added to a checkpoint: the others keep every bit, and teams' additions merge."""

import numpy as np
import pytest
import torch
from own_data import dataset, write_dataset
from safetensors.torch import load_file
from small_models import sample, small_contract

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.runtime.checkpoint import random_weights, read_contract, save_checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.add_modality.__main__ import main
from training.add_modality.merge import main as merge

CPU = InferenceConfig(device="cpu")
SHORT = (
    "run.steps=2", "run.score_every=2", "run.save_every=1", "run.batch_size=2", "run.pictures=0",
    "augment.crop_height=32", "augment.crop_width=32", "knots=3",
)  # fmt: skip


def data_of(folder, name):
    """Six pairs whose X is pictures of counts of a sensor of this name."""
    picture = {"low": 28000.0, "high": 32000.0, "unit": "counts"}
    names = ("road", "person", "car")
    classes = [{"name": one, "value": i, "unified": one} for i, one in enumerate(names)]
    write_dataset(folder, dataset(classes, modality=name, picture=picture))
    return folder


def add(checkpoint, name, data, out, *more):
    command = [str(checkpoint), "--name", name, "--data", f"folder={data}", "--out", str(out)]
    return main([*command, "--set", *SHORT, *more])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    contract = small_contract()
    loaded = random_weights(contract)
    save_checkpoint(path, loaded.model, loaded.ma_clip, contract)
    return path


@pytest.fixture(scope="module")
def added(base, tmp_path_factory):
    """Folders of the runs that added `nir` and `radar` to one checkpoint."""
    folder = tmp_path_factory.mktemp("added")
    for name in ("nir", "radar"):
        data = data_of(folder / f"{name}_data", name)
        assert add(base, name, data, folder / name) == 0
    return folder


def answers(path, samples):
    segmenter = Segmenter.from_checkpoint(path, CPU)
    found = [segmenter.predict([one])[0] for one in samples]
    return [(one.labels, one.confidence) for one in found]


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def of_new(name, seed=0):
    x = np.random.default_rng(seed).integers(28000, 32000, (40, 50)).astype(np.uint16)
    return RgbxSample(sample(seed=seed).rgb, x, Modality(name))


def test_the_five_keep_every_bit(base, added):
    images = [sample(Modality.THERMAL), sample(Modality.DEPTH, seed=1)]
    images.append(sample(Modality.LIGHT_FIELD, seed=2))
    assert_equal(answers(added / "nir/best.safetensors", images), answers(base, images))


def test_the_contract_names_it_and_its_file_is_small(base, added):
    contract = read_contract(added / "nir/best.safetensors")
    assert contract.modalities == (*MODALITIES, "nir")
    assert contract.encoding.added[Modality("nir")].unit == "counts"
    small = (added / "nir/nir_best.safetensors").stat().st_size
    assert small < base.stat().st_size / 4


def test_what_is_learned_is_the_adapter_and_the_prompts(added):
    learned = load_file(added / "nir/nir_best.safetensors")
    other = load_file(added / "radar/radar_best.safetensors")
    assert set(learned) == set(other)
    assert any(name.endswith("lora_added_up") and bool(t.any()) for name, t in learned.items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in learned.values())


def test_two_teams_additions_merge_without_training(added, tmp_path):
    out = tmp_path / "both.safetensors"
    files = [added / "nir/best.safetensors", added / "radar/radar_best.safetensors"]
    assert merge([*map(str, files), "--out", str(out)]) == 0
    assert read_contract(out).modalities == (*MODALITIES, "nir", "radar")
    for name in ("nir", "radar"):
        own = added / name / "best.safetensors"
        assert_equal(answers(out, [of_new(name)]), answers(own, [of_new(name)]))
    assert_equal(answers(out, [sample()]), answers(added / "nir/best.safetensors", [sample()]))


def test_an_addition_to_another_checkpoint_is_refused(added, tmp_path, capsys):
    contract = small_contract()
    loaded = random_weights(contract, 5)
    save_checkpoint(tmp_path / "other.safetensors", loaded.model, loaded.ma_clip, contract)
    files = [str(tmp_path / "other.safetensors"), str(added / "nir/nir_best.safetensors")]
    assert merge([*files, "--out", str(tmp_path / "both.safetensors")]) == 2
    assert "addition nir was added to another checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "both.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thermal", "the checkpoint has 'thermal' already; choose another name"),
        ("Near IR", "--name: 'Near IR'"),
    ],
)
def test_a_name_that_is_taken_or_no_name_is_refused(base, added, tmp_path, capsys, name, message):
    assert add(base, name, added / "nir_data", tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_a_run_that_ended_is_not_trained_again(base, added, capsys):
    before = (added / "nir/best.safetensors").read_bytes()
    assert add(base, "nir", added / "nir_data", added / "nir") == 0
    assert (added / "nir/best.safetensors").read_bytes() == before
