"""The audit: what it prints, what it calls a problem, and its exit status."""

import numpy as np
import pytest

from segrgbx_core.base.images import read_image, write_image
from segrgbx_core.base.modality import Modality
from training.audit import main
from training.data.audit import audit
from training.data.datasets import READERS, open_reader, spread
from training.data.datasets.export import export_mfnet, export_urbanlf


@pytest.fixture
def mfnet(tmp_path, make, rng):
    for split, names in {
        "train": ("00001D", "00002N"),
        "val": ("00003D",),
        "test": ("00004N",),
    }.items():
        export_mfnet([make["mfnet"](rng, name) for name in names], tmp_path, split)
    return tmp_path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_every_layout_is_sound(world, tmp_path, capsys):
    name, root, frames, options = world
    chosen = [f"{key}={value}" for key, value in options.items()]
    modality = ["--modality", "depth"] if options.get("x") == "hha" else []
    extra = ["--set", *chosen] if chosen else []
    status, out, _ = run(
        capsys, name, root, "--split", *frames, *modality, *extra, "--out", tmp_path
    )
    # Colours stand for void too in these fixtures, and more often than in the real part.
    expected = 1 if options.get("labels") == "colours" else 0
    assert status == expected
    reader = open_reader(
        name,
        root,
        next(iter(frames)),
        Modality(modality[1]) if modality else READERS[name].modalities[0],
        options,
    )
    for class_name in reader.space.names:
        assert class_name in out
    assert reader.describe().coding in out
    assert "54x36x3 uint8" in out
    assert (tmp_path / f"{name}.txt").read_text().startswith("data set")
    for split in frames:
        assert read_image(tmp_path / f"{name}_{split}.png").shape[2] == 3


def test_counts_are_warnings(mfnet, capsys):
    status, out, _ = run(capsys, "mfnet", mfnet)
    assert status == 0
    assert "warning: 2 samples, 782 fewer than the 784 published" in out
    assert "split val" in out
    assert "split test" in out


def test_shares_of_classes(mfnet):
    reader = open_reader("mfnet", mfnet, "train", Modality.THERMAL)
    found = audit(reader)
    assert found.samples == 2
    assert found.counts.sum() == 2 * 36 * 54
    assert found.groups == {"day": 1, "night": 1}
    assert found.x == {"54x36 uint8": 2}
    assert found.problems == []


def test_foreign_values_are_problems_and_the_rest_is_read(mfnet, capsys):
    write_image(mfnet / "labels" / "00001D.png", np.full((36, 54), 40, np.uint8))
    status, out, _ = run(capsys, "mfnet", mfnet, "--split", "train")
    assert status == 1
    assert "problem: " in out
    assert "00001D.png: label value 40" in out
    assert "read       1 samples" in out


def test_nothing_readable_is_a_problem(mfnet, capsys):
    for path in (mfnet / "labels").iterdir():
        path.write_bytes(b"no image")
    status, out, _ = run(capsys, "mfnet", mfnet, "--split", "train", "--out", mfnet / "audit")
    assert status == 1
    assert "problem: no sample could be read" in out
    assert "no sheet" in out


def test_a_split_that_cannot_be_opened_is_a_problem(mfnet, capsys):
    (mfnet / "labels" / "00003D.png").unlink()
    status, out, _ = run(capsys, "mfnet", mfnet)
    assert status == 1
    assert "00003D.png: is missing" in out
    assert "split test" in out  # the others are still read


def test_a_sample_in_two_splits_is_a_problem(mfnet, capsys):
    (mfnet / "val.txt").write_text("00003D\n00001D\n")
    status, out, _ = run(capsys, "mfnet", mfnet)
    assert status == 1
    assert "problem: 1 samples are in train and val, such as 00001D" in out


@pytest.mark.parametrize(("wrong_pixels", "status"), [(5, 0), (500, 1)])
def test_unmatched_colours(tmp_path, make, rng, capsys, wrong_pixels, status):
    frame = make["urbanlf"](rng, "Image001")
    export_urbanlf(
        [type(frame)("Image001", frame.rgb, frame.labels % 14, frame.x)], tmp_path, "train"
    )
    path = tmp_path / "train" / "Image001" / "label.png"
    picture = read_image(path)
    picture.reshape(-1, 3)[:wrong_pixels] = (1, 1, 1)
    write_image(path, picture)
    done, out, _ = run(capsys, "urbanlf", tmp_path, "--split", "train", "--set", "labels=colours")
    assert done == status
    word = "problem" if status else "warning"
    assert f"{word}: {wrong_pixels} pixels" in out


def test_images_of_one_colour_are_told(mfnet, capsys):
    write_image(mfnet / "images" / "00001D.png", np.full((36, 54, 4), 9, np.uint8))
    _, out, _ = run(capsys, "mfnet", mfnet, "--split", "train")
    assert "00001D: X is one colour all over" in out
    assert "00001D: RGB is one colour all over" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--split", "trian"),
        ("--set", "tine=day"),
        ("--set", "time"),
        ("--modality", "event"),
    ],
)
def test_wrong_questions_exit_with_2(mfnet, capsys, arguments):
    status, _, err = run(capsys, "mfnet", mfnet, *arguments)
    assert status == 2
    assert err.count("\n") <= 2


def test_spread():
    assert spread(5, 0) == [0, 1, 2, 3, 4]
    assert spread(100, 3) == [0, 49, 99]
    assert spread(2, 10) == [0, 1]
    assert spread(0, 2) == []
