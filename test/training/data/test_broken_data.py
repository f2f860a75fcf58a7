"""Files that break while a run reads them, in the run's own process or in a worker: one line."""

import numpy as np
import pytest
from stage2_case import write_run

from segrgbx_core.base.images import read_image, write_image
from training.data.datasets.export import export_mfnet
from training.train_segmentation import main
from training.world.records import Record, save_record


@pytest.fixture
def mfnet(tmp_path, make, rng):
    """Four whole samples, sound until a test breaks one."""
    root = tmp_path / "mfnet"
    export_mfnet([make["mfnet"](rng, f"{n:05d}D") for n in range(4)], root, "train")
    export_mfnet([make["mfnet"](rng, "00010D")], root, "val")
    return root


def run(folder, data, *overrides):
    """Exit status of a run; whole frames are not embedded ahead unless asked."""
    path = write_run(
        folder,
        {
            "data": [data],
            "clip": {"full_frame": False},
            "run": {"out": str(folder / "out"), "save_every": 1},
        },
    )
    sets = [part for override in overrides for part in ("--set", override)]
    return main([str(path), *sets])


def truncated(root):
    path = root / "images" / "00002D.png"
    path.write_bytes(path.read_bytes()[:400])
    return path, "400 bytes are no image"


def foreign(root):
    path = root / "labels" / "00002D.png"
    write_image(path, np.full((36, 54), 40, np.uint8))
    return path, "label value 40 (1944 pixels) is not in the table of 9 classes"


def other_size(root):
    path = root / "labels" / "00002D.png"
    write_image(path, np.zeros((18, 27), np.uint8))
    return path, "labels are 27x18 but 00002D.png is 54x36"


def no_thermal(root):
    path = root / "images" / "00002D.png"
    write_image(path, read_image(path)[..., :3])
    return path, "thermal"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("breaks", [truncated, foreign, other_size, no_thermal])
def test_a_broken_sample_is_named_in_one_line(tmp_path, mfnet, capfd, breaks, workers):
    path, reason = breaks(mfnet)
    data = {"reader": "mfnet", "root": str(mfnet), "modality": "thermal"}
    assert run(tmp_path, data, f"run.workers={workers}") == 2
    error = capfd.readouterr().err
    (line,) = [line for line in error.splitlines() if str(path) in line]
    assert line.startswith(str(path))
    assert reason in line
    assert "Traceback" not in error


@pytest.mark.parametrize("workers", [0, 1])
def test_frames_that_are_embedded_ahead_are_named_too(tmp_path, mfnet, capfd, workers):
    path, reason = truncated(mfnet)
    data = {"reader": "mfnet", "root": str(mfnet), "modality": "thermal"}
    assert run(tmp_path, data, f"run.workers={workers}", "clip.full_frame=true") == 2
    error = capfd.readouterr().err
    assert error.splitlines()[-1].lstrip("\r ").startswith(str(path))
    assert reason in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("embeddings*"))


def test_a_file_that_goes_away_stops_the_run_and_coming_back_lets_it_go_on(
    tmp_path, mfnet, capfd, monkeypatch
):
    from training.stage2.task import SegmentationTask

    path = mfnet / "images" / "00002D.png"
    content, batches = path.read_bytes(), SegmentationTask.batches

    def loses(self, *place):
        for number, batch in enumerate(batches(self, *place)):
            yield batch
            if number == 1:
                path.unlink()

    data = {"reader": "mfnet", "root": str(mfnet), "modality": "thermal"}
    monkeypatch.setattr(SegmentationTask, "batches", loses)
    assert run(tmp_path, data) == 2
    error = capfd.readouterr().err
    assert f"{path}: cannot be read (No such file or directory)" in error.splitlines()[-1]
    monkeypatch.setattr(SegmentationTask, "batches", batches)
    assert run(tmp_path, data) == 2  # the reader misses it already when it opens
    assert f"{path}: is missing; expected the RGB image of sample '00002D'" in (
        capfd.readouterr().err
    )
    path.write_bytes(content)
    assert run(tmp_path, data) == 0
    assert "resuming at step 2 of 4" in (tmp_path / "out" / "log.txt").read_text()


def cut(path):
    path.write_bytes(path.read_bytes()[:3000])
    return "is no rendered record"


def scrambled(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    return "is no rendered record"


def foreign_id(path):
    save_record(path, record(200))
    return "id 200 (1944 pixels) is not in the table"


def record(label):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (36, 54, 3), dtype=np.uint8)
    thermal = rng.integers(28000, 31000, (36, 54), dtype=np.uint16)
    return Record(0, 0, rgb, np.full((36, 54), label, np.uint8), thermal=thermal)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("breaks", [cut, scrambled, foreign_id])
def test_a_broken_record_is_named(tmp_path, capfd, breaks, workers):
    for split, count in (("train", 4), ("val", 1)):
        (tmp_path / "street" / split).mkdir(parents=True)
        for number in range(count):
            save_record(tmp_path / "street" / split / f"{number:05d}_00.npz", record(3))
    path = tmp_path / "street" / "train" / "00002_00.npz"
    reason = breaks(path)
    data = {
        "reader": "synthetic_street",
        "root": str(tmp_path / "street"),
        "modality": "thermal",
    }
    assert run(tmp_path, data, f"run.workers={workers}") == 2
    error = capfd.readouterr().err
    assert path.stem in error.splitlines()[-1]
    assert reason in error.splitlines()[-1]
    assert "Traceback" not in error
