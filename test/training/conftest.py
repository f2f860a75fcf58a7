"""Fabricators that the tests of data set readers share, and made data sets for small runs."""

from unittest import mock

import numpy as np
import pytest

from segrgbx_core.labels.label_space import VOID
from training.data.datasets import READERS
from training.data.datasets.export import (
    Frame,
    NyuLayout,
    UrbanLfLayout,
    export_deliver,
    export_mfnet,
    export_nyu,
    export_urbanlf,
    export_zju,
)

HEIGHT, WIDTH = 36, 54
RED = (255, 0, 0)
"""Colour of the top left 16 x 16 pixels of every fabricated RGB image."""
GROUND = (8, 200, 90)
"""Colour of the top left 16 x 16 pixels of every fabricated three-channel X picture."""


def picture(rng, corner, size=(HEIGHT, WIDTH)):
    """Smooth enough for JPEG, with a known corner."""
    coarse = rng.integers(40, 200, (size[0] // 6 + 1, size[1] // 6 + 1, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1)[: size[0], : size[1]].copy()
    image[:16, :16] = corner
    return image


def labels_of(rng, num_classes, with_void=True, size=(HEIGHT, WIDTH)):
    """Every class, in blocks; void in the last rows."""
    ids = np.arange(-(-size[1] // 2) * -(-size[0] // 2)) % num_classes
    grid = rng.permutation(ids).reshape(-(-size[0] // 2), -1).astype(np.uint8)
    labels = np.repeat(np.repeat(grid, 2, axis=0), 2, axis=1)[: size[0], : size[1]].copy()
    if with_void:
        labels[-3:] = VOID
    return labels


def deliver_frame(rng, name):
    x = {kind: picture(rng, GROUND) for kind in ("event", "hha", "depth", "lidar")}
    return Frame(name, picture(rng, RED), labels_of(rng, 25), x)


def mfnet_frame(rng, name):
    thermal = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    return Frame(name, picture(rng, RED), labels_of(rng, 9, False), {"thermal": thermal})


def nyu_frame(rng, name):
    depth = rng.integers(500, 9000, (HEIGHT, WIDTH), dtype=np.uint16)
    x = {"hha": picture(rng, GROUND), "depth": depth}
    return Frame(name, picture(rng, RED), labels_of(rng, 40), x)


def zju_frame(rng, name):
    angles = np.stack([picture(rng, RED) for _ in range(4)], axis=2)
    return Frame(name, angles[:, :, 0], labels_of(rng, 8), {"angles": angles})


def aolp_frame(rng, name):
    aolp = picture(rng, GROUND)
    return Frame(name, picture(rng, RED), labels_of(rng, 8), {"aolp": aolp})


def urbanlf_frame(rng, name):
    x = {"1_1": picture(rng, GROUND), "9_1": picture(rng, (1, 2, 3))}
    return Frame(name, picture(rng, RED), labels_of(rng, 14), x)


def _deliver(rng, root, split):
    scenes = {"train": "MAP_1_point1", "val": "MAP_2_point5_motionblur"}
    names = [f"{weather}/{scenes[split]}/{n:06d}" for weather in ("rain", "sun") for n in (7, 9)]
    frames = [deliver_frame(rng, name) for name in names]
    export_deliver(frames, root, split, has_alpha=split == "val")
    return frames


def _mfnet(rng, root, split, **options):
    names = {"train": ("00001D", "00002N", "00010D"), "val": ("00003D", "00004N")}[split]
    frames = [mfnet_frame(rng, name) for name in names]
    export_mfnet(frames, root, split, **options)
    return frames


def _nyu(rng, root, split, **options):
    names = {"train": ("000003", "000004"), "test": ("000001", "000002")}[split]
    frames = [nyu_frame(rng, name) for name in names]
    export_nyu(frames, root, split, **options)
    return frames


def _zju(rng, root, split, sign=""):
    stem = "2018-11-26-a-name-that-is-not-fifty-one-characters"
    names = [f"{stem}_{split}{n}_image0" for n in range(2)]
    frames = [zju_frame(rng, name) for name in names]
    export_zju(frames, root, split, sign)
    return frames


def _aolp(rng, root, split):
    frames = [aolp_frame(rng, f"{split}{n}") for n in range(2)]
    export_zju(frames, root, split)
    return frames


def _urbanlf(rng, root, split, layout):
    start = {"train": 1, "val": 101}[split]
    frames = [urbanlf_frame(rng, f"Image{n:03d}") for n in range(start, start + 2)]
    export_urbanlf(frames, root, split, layout)
    return frames


WORLDS = {
    "deliver": ("deliver", _deliver, {}, {}),
    "deliver hha": ("deliver", _deliver, {}, {"x": "hha"}),
    "mfnet": ("mfnet", _mfnet, {}, {}),
    "mfnet folders": ("mfnet", _mfnet, {"in_folders": True}, {}),
    "nyu cmx": ("nyu", _nyu, {}, {}),
    "nyu dformer": ("nyu", _nyu, {"layout": NyuLayout.DFORMER}, {}),
    "nyu stitchfusion": ("nyu", _nyu, {"layout": NyuLayout.STITCHFUSION}, {}),
    "nyu tokenfusion": ("nyu", _nyu, {"layout": NyuLayout.TOKENFUSION, "from_zero": True}, {}),
    "nyu esanet": ("nyu", _nyu, {"layout": NyuLayout.ESANET}, {}),
    "zju": ("zju_rgbp", _zju, {}, {}),
    "zju degree sign": ("zju_rgbp", _zju, {"sign": "°"}, {}),
    "zju aolp": ("zju_rgbp", _aolp, {}, {}),
    "urbanlf real": ("urbanlf", _urbanlf, {"layout": UrbanLfLayout.REAL}, {}),
    "urbanlf colours": (
        "urbanlf",
        _urbanlf,
        {"layout": UrbanLfLayout.REAL},
        {"labels": "colours"},
    ),
    "urbanlf synthetic": ("urbanlf", _urbanlf, {"layout": UrbanLfLayout.SYNTHETIC}, {}),
    "urbanlf re-pack": ("urbanlf", _urbanlf, {"layout": UrbanLfLayout.REPACK}, {}),
}
"""Every layout: data set, what writes a split of it, options of the writer and of the reader."""

SPLITS = {"nyu": ("train", "test")}


@pytest.fixture(params=list(WORLDS), scope="module")
def world(request, tmp_path_factory):
    """A tiny data set in one layout: name, root, frames by split, options of its reader."""
    name, write, written, read = WORLDS[request.param]
    rng, root = np.random.default_rng(7), tmp_path_factory.mktemp("world")
    splits = SPLITS.get(name, ("train", "val"))
    frames = {split: write(rng, root, split, **written) for split in splits}
    return name, root, frames, read


@pytest.fixture
def make():
    """Fabricators of frames by data set."""
    return {
        "deliver": deliver_frame,
        "mfnet": mfnet_frame,
        "nyu": nyu_frame,
        "zju_rgbp": zju_frame,
        "urbanlf": urbanlf_frame,
    }


@pytest.fixture
def write_world():
    """Writes both splits of a data set in its first layout; gives modality and second split."""

    def write(name, root):
        rng = np.random.default_rng(11)
        _, writer, options, _ = next(entry for entry in WORLDS.values() if entry[0] == name)
        splits = SPLITS.get(name, ("train", "val"))
        for split in splits:
            writer(rng, root, split, **options)
        return READERS[name].modalities[0], splits[1]

    return write


@pytest.fixture(scope="module")
def made_readers():
    """Run files may name the data sets of `stage2_case` for as long as a file's tests run."""
    from stage2_case import MADE

    with mock.patch.dict(READERS, MADE):
        yield
