"""The bench of the loader on tiny files: a row per data set, time where it is spent."""

import numpy as np
import pytest

from segrgbx_core.base.modality import Modality
from training.data import loader_bench
from training.data.datasets import open_reader
from training.data.datasets.export import export_mfnet
from training.data.loader_bench import measure, profile
from training.loader_bench import main


@pytest.fixture
def mfnet(tmp_path, make, rng):
    export_mfnet([make["mfnet"](rng, f"{n:05d}D") for n in range(3)], tmp_path, "train")
    return open_reader("mfnet", tmp_path, "train", Modality.THERMAL)


def test_each_stage_holds_the_one_before(mfnet, monkeypatch):
    """A slow reader is slow in all three columns, a slow augmentation in the last one only."""
    read, augment = type(mfnet).__getitem__, loader_bench.augment

    def busy(milliseconds):
        end = loader_bench.time.process_time() + milliseconds / 1000
        while loader_bench.time.process_time() < end:
            np.ones(100).sum()

    monkeypatch.setattr(type(mfnet), "__getitem__", lambda self, i: busy(40) or read(self, i))
    monkeypatch.setattr(loader_bench, "augment", lambda *a: busy(60) or augment(*a))
    found = measure(mfnet, 2, crop=32)
    assert found.name == "mfnet, 54x36"
    assert found.read >= 40
    assert found.prepare >= 40
    assert found.item >= 100
    assert f"| {1000 / found.item:.1f} |" in found.row()
    slowest = dict(profile(mfnet, 2, crop=32, count=4))
    assert len(slowest) == 4
    assert sum(slowest.values()) > 60
    assert any("busy" in name or "ufunc" in name for name in slowest)


def test_all_five_are_made_and_measured(monkeypatch, capsys):
    for name in ("export_deliver", "export_mfnet", "export_nyu", "export_zju", "export_urbanlf"):
        whole = getattr(loader_bench, name)
        monkeypatch.setattr(loader_bench, name, lambda f, *a, whole=whole: whole(small(f), *a))
    assert main(["--made", "1", "--samples", "1", "--crop", "32", "--profile", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert [row.split(",")[0][2:] for row in rows[1:]] == [
        *("deliver", "mfnet", "nyu", "zju_rgbp", "urbanlf", "zju_rgbp"),
    ]
    assert sum(" ms  " in line for line in lines) == 12


def small(frames):
    """The first rows and columns of made frames: the published sizes take seconds to write."""
    for frame in frames:
        x = {kind: image[:64, :80] for kind, image in frame.x.items()}
        yield loader_bench.Frame(frame.name, frame.rgb[:64, :80], frame.labels[:64, :80], x)


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main(["mfnet", str(tmp_path)]) == 1
    assert "are no MFNet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
