"""Fused masks of a recording: scored beside their members, dead and late ones left out."""

import json

import numpy as np
import pytest
from fused_recording import DEAD, FRAMES, LATE, NAMES, PAIRS, write_config, write_recording

from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.replay import main

REMAPS = [text for pair in PAIRS for text in ("--remap", f"{pair}/rgb/image:=/camera")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("fused") / "bag")


@pytest.fixture
def replay(recording, checkpoint, tmp_path):
    config = write_config(tmp_path / "fused.yaml", checkpoint)

    def run(*more, remaps=REMAPS):
        out = ["--out", str(tmp_path / "out"), "--quiet"]
        code = main([str(recording), "--config", str(config), *remaps, *out, *more])
        if code:
            return code
        report = json.loads((tmp_path / "out/report.json").read_text())
        return report["pairs"], (tmp_path / "out/report.md").read_text()

    return run


def test_members_and_fused_mask_are_scored_on_the_same_truth(replay, tmp_path):
    pairs, page = replay("--write-bag", str(tmp_path / "predicted"))
    assert list(pairs) == list(NAMES)
    assert [pairs[name]["paired"] for name in NAMES] == [FRAMES] * 3
    front = pairs["front"]
    assert front["members"] == list(PAIRS)
    assert front["scores"]["frames"] == FRAMES == pairs["thermal"]["scores"]["frames"]
    assert pairs["depth"]["scores"] is None  # no truth lies beside depth
    assert front["topics"] == {"rgb": "/camera"}
    assert front["faults"] == {"depth: empty": 1, "depth: missing": 1}
    assert "## Fused mask `front` (fused: thermal + depth)" in page
    with Bag(tmp_path / "predicted") as bag:
        masks = {name: [] for name in NAMES}
        for item in bag.messages({f"/{name}/mask" for name in NAMES}):
            masks[item.topic.split("/")[1]].append(np.array(bag.decode(item).data))
    assert [len(masks[name]) for name in NAMES] == [FRAMES] * 3
    for index in range(FRAMES):
        is_thermal = np.array_equal(masks["front"][index], masks["thermal"][index])
        assert is_thermal == (index in (DEAD, LATE)), "one member left is taken as it is"


def test_frames_with_too_few_members_get_no_mask(replay):
    pairs, page = replay("--set", "fuse.min_members=2", "--set", "sync.on_missing_x=drop")
    assert pairs["front"]["paired"] == FRAMES - 2
    assert pairs["front"]["dropped"] == {"too_few_members": 2}
    assert "| no mask: too_few_members" in page


def test_rgb_alone_answers_frames_with_too_few_members(replay):
    pairs, _ = replay("--set", "fuse.min_members=2")
    assert (pairs["front"]["paired"], pairs["front"]["rgb_only"]) == (FRAMES, 2)


def test_a_fused_mask_without_all_its_pairs_is_left_out_and_named(replay):
    pairs, page = replay("--pair", "thermal", remaps=REMAPS[:2])
    assert list(pairs) == ["thermal"]
    assert "fused mask 'front' is left out: not all of its pairs are replayed" in page


def test_members_with_other_rgb_topics_are_refused_by_name(replay, capsys):
    assert replay(remaps=[*REMAPS[:2], "--remap", "depth/rgb/image:=/thermal/label"]) == 2
    text = capsys.readouterr().err
    assert "fuse.front: 'thermal' has RGB of '/camera', 'depth' of '/thermal/label'" in text
    assert "--remap depth/rgb/image:=/camera" in text
