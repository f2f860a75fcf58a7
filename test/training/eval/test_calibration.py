"""Temperatures: found again where they are known, stored, and applied wherever masks are made."""

import json

import numpy as np
import pytest
import torch
from own_data import dataset, write_dataset

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.model.tensor_files import read_metadata, read_tensors
from segrgbx_core.runtime.checkpoint import (
    KEY,
    default_contract,
    load_checkpoint,
    random_checkpoint,
    read_contract,
)
from segrgbx_core.runtime.exported import contract_mark
from segrgbx_core.runtime.segmenter import Segmenter
from training.calibrate import main
from training.data.datasets import joined_space, open_reader
from training.eval.calibration import BINS, LabelledLogits, fit_temperature, reliability


def drawn(temperature, pixels=40_000, seed=0):
    """Logits whose labels are drawn from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(pixels, 5, generator=generator)
    labels = (logits / temperature).softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return LabelledLogits(logits, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature):
    data = drawn(temperature)
    found = fit_temperature(data)
    assert found == pytest.approx(temperature, rel=0.03)
    assert reliability(data, found).ece < 0.01
    for other in (0.9 * found, 1.1 * found):
        assert reliability(data, found).nll < reliability(data, other).nll
    fresh = drawn(temperature, seed=1)
    assert reliability(fresh, found).ece < 0.01


def test_ece_by_hand():
    # Sure to 0.9 and right half of the time; sure to 0.6 and always right.
    confidence = torch.tensor([0.9, 0.9, 0.6, 0.6, 0.6])
    data = LabelledLogits(
        torch.stack([confidence, 1 - confidence], dim=1).log(), torch.tensor([0, 1, 0, 0, 0])
    )
    found = reliability(data)
    assert found.ece == pytest.approx(0.4 * 0.4 + 0.6 * 0.4)
    assert found.share[[9, 13]].tolist() == pytest.approx([0.6, 0.4])
    assert found.accuracy[[9, 13]].tolist() == pytest.approx([1.0, 0.5])
    assert np.isnan(found.accuracy[[0, BINS - 1]]).all()
    assert found.nll == pytest.approx(-(np.log(0.9) + np.log(0.1) + 3 * np.log(0.6)) / 5)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """An own data set and a random checkpoint that knows its classes."""
    folder = tmp_path_factory.mktemp("calibration")
    content = dataset(splits={"train": "train.txt", "val": "val.txt", "test": "train.txt"})
    write_dataset(folder / "yard", content)
    reader = open_reader("folder", folder / "yard", "val", Modality.THERMAL)
    random_checkpoint(folder / "a.safetensors", label_space=joined_space([reader], None).to_dict())
    return folder


def calibrate(case, out, *more):
    arguments = [str(case / "a.safetensors"), "--reader", "folder", "--root", str(case / "yard")]
    return main([*arguments, "--device", "cpu", "--out", str(out), *more])


@pytest.fixture(scope="module")
def calibrated(case):
    out, report = case / "b.safetensors", case / "report"
    assert calibrate(case, out, "--check-split", "test", "--report", str(report)) == 0
    return out


def test_the_new_checkpoint_differs_in_its_contract_alone(case, calibrated):
    before, after = (read_tensors(path)[0] for path in (case / "a.safetensors", calibrated))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    contract = read_contract(calibrated)
    assert contract.temperatures.keys() == {"thermal"}
    assert contract.provenance["calibration"][0]["split"] == "val"
    plain = contract.model_copy(
        update={"temperatures": {}, "provenance": read_contract(case / "a.safetensors").provenance}
    )
    assert plain == read_contract(case / "a.safetensors")


def test_the_report_has_both_splits_and_pictures(case, calibrated):
    found = json.loads((case / "report/calibration.json").read_text())
    assert [(one["split"], one["role"]) for one in found] == [
        ("val", "fitted"),
        ("test", "not fitted"),
    ]
    assert found[0]["temperature"] == found[1]["temperature"]
    assert found[0]["after"]["nll"] <= found[0]["before"]["nll"]
    assert found[0]["pixels"] == 2 * 2000
    assert (case / "report/yard_thermal_val.png").is_file()
    assert (case / "report/yard_thermal_test.png").is_file()
    assert "| ECE % before |" in (case / "report/calibration.md").read_text()


def sample(modality=Modality.THERMAL):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
    return RgbxSample(rgb, rng.integers(28000, 31000, (40, 56), dtype=np.uint16), modality)


def answers(path, samples):
    return Segmenter(load_checkpoint(path)).predict(samples)


def test_node_and_replay_answer_with_the_temperature(case, calibrated, tmp_path):
    """Labels stay; a higher temperature is less sure, and each sensor has its own."""
    samples = [sample(), sample(Modality.DEPTH)]
    before = answers(case / "a.safetensors", samples)
    path = tmp_path / "hot.safetensors"
    space = read_contract(calibrated).label_space
    random_checkpoint(path, label_space=space, temperatures={"thermal": 3.0})
    after = answers(path, samples)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.labels, other.labels)
    assert after[0].confidence.mean() < before[0].confidence.mean()
    assert np.array_equal(after[1].confidence, before[1].confidence)


def test_without_temperatures_answers_are_the_same_bits(case, tmp_path):
    space = read_contract(case / "a.safetensors").label_space
    random_checkpoint(
        tmp_path / "one.safetensors", label_space=space, temperatures={"thermal": 1.0}
    )
    plain, one = (
        answers(p, [sample()]) for p in (case / "a.safetensors", tmp_path / "one.safetensors")
    )
    assert np.array_equal(plain[0].labels, one[0].labels)
    assert np.array_equal(plain[0].confidence, one[0].confidence)


def test_files_without_temperatures_do_not_mention_them(case, calibrated):
    header = read_metadata(case / "a.safetensors")
    assert "temperatures" not in json.loads(header[KEY])
    assert "temperatures" not in contract_mark(read_contract(case / "a.safetensors"), None)
    assert '"temperatures": {"thermal"' in contract_mark(read_contract(calibrated), None)


@pytest.mark.parametrize(
    ("temperatures", "message"),
    [({"sonar": 1.0}, "'sonar' is not one of event"), ({"thermal": 0.0}, "is not above 0")],
)
def test_wrong_temperatures_are_refused(temperatures, message):
    with pytest.raises(ValueError, match=message):
        default_contract("tiny", temperatures=temperatures)


def test_what_cannot_be_calibrated_is_refused(case, calibrated, capsys, tmp_path):
    assert calibrate(case, case / "a.safetensors") == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    write_dataset(tmp_path / "yard", dataset(classes=("gate", "road")))
    arguments = [str(calibrated), "--reader", "folder", "--root", str(tmp_path / "yard")]
    assert main([*arguments, "--out", str(tmp_path / "c.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "now has 'gate' as class 0, not 'road'; score it" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c.safetensors").exists()


def test_every_sensor_can_have_a_temperature():
    stated = {modality.value: 1.5 for modality in MODALITIES}
    assert default_contract("tiny", temperatures=stated).temperatures == stated
