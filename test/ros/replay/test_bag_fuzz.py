"""Whatever bytes a recording or a label picture holds, it is read or refused in one sentence.

The suite runs a few hundred cases; `make fuzz` runs 100000 of each kind.
"""

import os
import warnings
from collections import Counter

import cv2
import numpy as np
import pytest

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.errors import SegrgbxError
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.ground_truth import FolderGroundTruth, TopicGroundTruth

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "120"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "0"))


def mutated(rng, data):
    """Some bytes flipped, replaced, cut out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        kind, place = rng.integers(0, 6), int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 33))
        if kind <= 1 and place < len(data):
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            data[place : place + length] = rng.bytes(length)
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def recording(folder, storage, compress):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    with BagWriter(folder, storage, compress=compress) as bag:
        for index in range(4):
            bag.write("/labels", bag.image(pixels, "mono8", index), 10 * index)
            coded = bag.compressed(png, "mono8; png compressed ", index)
            bag.write("/labels/compressed", coded, 10 * index + 1)
        bag.write("/text", bag.string("words"), 50, latched=True)
    return folder


def read_all(path):
    """Everything that replay asks of a recording."""
    with Bag(path) as bag:
        bag.listing()
        for topic in bag.topics.values():
            assert topic.latched in (True, False)
        assert bag.duration_s >= 0
        for message in bag.messages():
            judged(bag.decode, message)
        for topic in ("/labels", "/labels/compressed"):
            if topic in bag.topics:
                TopicGroundTruth(bag, topic)


def judged(read, *arguments):
    """True where it was read, False where it was refused, in one line of bounded length."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(*arguments)
        except SegrgbxError as error:
            fault = str(error)
        else:
            return True
    assert "\n" not in fault
    assert len(fault) < 6000
    return False


@pytest.mark.parametrize(
    ("storage", "compress"), [("mcap", False), ("mcap", True), ("sqlite3", False)]
)
def test_mutated_recordings(tmp_path, storage, compress):
    folder = recording(tmp_path / "bag", storage, compress)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    storage_file = next(path for path in files if path.name != "metadata.yaml")
    tally = Counter()
    for case in range(CASES):
        rng = np.random.default_rng([SEED, case])
        chosen = storage_file if rng.random() < 0.8 else folder / "metadata.yaml"
        chosen.write_bytes(mutated(rng, files[chosen]))
        try:
            tally[judged(read_all, folder)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {SEED}, case {case}: {chosen.name}") from error
        chosen.write_bytes(files[chosen])
    assert min(tally[True], tally[False]) > CASES // 50, tally


def test_mutated_label_pictures(tmp_path):
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    kinds = [
        cv2.imencode(".png", pixels)[1].tobytes()
        for pixels in (ids, ids.astype(np.uint16), np.dstack([ids] * 3))
    ]
    tally = Counter()
    for case in range(CASES):
        rng = np.random.default_rng([SEED, case])
        (tmp_path / "5.png").write_bytes(mutated(rng, kinds[case % len(kinds)]))

        def read():
            found = FolderGroundTruth(tmp_path, [5]).labels(5)
            assert found.dtype == np.uint8
            assert found.ndim == 2

        try:
            tally[judged(read)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {SEED}, case {case}") from error
    assert tally[False] > CASES // 20, tally
