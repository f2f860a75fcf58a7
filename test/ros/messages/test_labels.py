"""Label files and palette files, and the text of the published labels."""

import os
from collections import Counter

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.labels.label_space import PublishedLabels, unified_label_space
from segrgbx_ros.messages.labels import (
    label_map_text,
    legend_text,
    parse_label_map,
    read_label_file,
    read_palette_file,
)

GROUPS = """
classes:
  - {name: drivable, rgb: [1, 2, 3], members: [road, road line]}
  - {name: people, rgb: [9, 8, 7], members: [person]}
"""
SPACE = unified_label_space()
LABELS = PublishedLabels(SPACE.names, SPACE.palette, space="unified", hash=SPACE.hash)


def written(folder, text, name="costmap.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_label_map_reads_back():
    labels = PublishedLabels(
        ("road", "car"), ((1, 2, 3), (4, 5, 6)), space="two", hash="abc", unlabeled_id=700
    )
    assert parse_label_map(label_map_text(labels)) == labels


def test_legend_lists_ids_names_and_colours():
    labels = PublishedLabels(
        ("road", "car"), ((1, 2, 3), (4, 5, 6)), space="two", hash="abc", unlabeled_id=700
    )
    assert legend_text(labels).splitlines() == [
        "  0  road    1   2   3",
        "  1  car     4   5   6",
        "700  (no answer)",
    ]


def test_classes_are_grouped(tmp_path):
    grouped, table = read_label_file(written(tmp_path, GROUPS), LABELS)
    assert (grouped.space, grouped.names) == ("costmap", ("drivable", "people"))
    assert grouped.palette == ((1, 2, 3), (9, 8, 7))
    ids = [SPACE.names.index(name) for name in ("road", "road line", "person", "sky")]
    assert table[ids].tolist() == [0, 0, 1, 255]


FIXED = """
classes:
  - {name: person, rgb: [9, 8, 7], members: [person], id: 11}
  - {name: ground, rgb: [1, 2, 3], members: [road, road line], id: 2}
"""


def test_classes_keep_the_ids_that_the_file_gives(tmp_path):
    path = written(tmp_path, FIXED)
    fixed, table = read_label_file(path, LABELS)
    assert fixed.ids == (11, 2)
    asked = [SPACE.names.index(name) for name in ("road", "road line", "person", "sky")]
    assert table[asked].tolist() == [2, 2, 11, 255]
    assert fixed.palette_array()[[2, 11]].tolist() == [[1, 2, 3], [9, 8, 7]]
    assert fixed.positions(np.uint8([[11, 2], [255, 3]])).tolist() == [[0, 1], [255, 255]]
    assert legend_text(fixed).splitlines()[0].split() == ["11", "person", "9", "8", "7"]
    back = parse_label_map(label_map_text(fixed))
    assert dict(zip(back.ids, back.names, strict=True)) == {2: "ground", 11: "person"}
    other = read_label_file(written(tmp_path, FIXED.replace("11", "12"), "o.yaml"), LABELS)[0]
    assert other.hash != fixed.hash, "another id is another meaning of masks"
    painted = read_palette_file(written(tmp_path, "ground: [4, 4, 4]\n", "p.yaml"), fixed)
    assert painted.palette_array()[2].tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("id: 11", "id: 2"), "id 2 is that of 'person' and of 'ground'"),
        (("id: 11", "id: 255"), "'person': id 255 is outside .0, 254.; 255 marks"),
        (("id: 11", "id: -1"), "'person': id -1 is outside"),
        ((", id: 11", ""), "'person' has no id, but 'ground' has; give every class one"),
        (("id: 11", "id: eleven"), "classes.0.id"),
    ],
)
def test_wrong_ids_are_refused_in_words(tmp_path, change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read_label_file(written(tmp_path, FIXED.replace(*change)), LABELS)


def test_other_members_are_another_label_space(tmp_path):
    first = written(tmp_path, GROUPS)
    other = written(tmp_path, GROUPS.replace("road, road line", "road"), "other.yaml")
    prints = [read_label_file(path, LABELS)[0].hash for path in (first, first, other)]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].startswith(f"{LABELS.hash}-")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("[person]", "[persn]"), "'people': 'persn' is no class of it .did you mean 'person'"),
        (("[person]", "[road]"), "'road' is a member of 'drivable' and of 'people'"),
        (("[9, 8, 7]", "[9, 8, 700]"), "no colour; use three numbers from 0 to 255"),
        (("people", "drivable"), "class 'drivable' stands twice"),
        (("members: [person]", "of: [person]"), "option .classes.1.members. is required"),
        ((GROUPS, "classes: []"), "0 of them; allowed are 1 to 254"),
    ],
)
def test_wrong_label_files_are_refused_in_words(tmp_path, change, complaint):
    path = written(tmp_path, GROUPS.replace(*change))
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_label_file(path, LABELS)
    assert str(path) in str(caught.value)


def test_a_palette_names_classes_and_colours(tmp_path):
    place = SPACE.names.index("road")
    labels = read_palette_file(written(tmp_path, "road: [90, 91, 92]\n"), LABELS)
    assert labels.palette[place] == (90, 91, 92)
    assert labels.palette[place + 1 :] == SPACE.palette[place + 1 :]
    for text, complaint in (
        ("roda: [90, 91, 92]", "did you mean 'road'"),
        ("road: blue", "'blue' is no colour"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            read_palette_file(written(tmp_path, text), LABELS)


def test_mutated_label_files_are_read_or_refused_in_one_line(tmp_path):
    cases, seed = (
        int(os.environ.get(f"SEGRGBX_FUZZ_{name}", default))
        for name, default in (("CASES", "400"), ("SEED", "0"))
    )
    files = [
        (GROUPS.encode(), lambda path: read_label_file(path, LABELS)),
        (b"road: [90, 91, 92]\nperson: [1, 2, 3]\n", lambda path: read_palette_file(path, LABELS)),
    ]
    path, tally = tmp_path / "file.yaml", Counter()
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        text, read = files[case % 2]
        data = bytearray(text)
        for _ in range(rng.integers(1, 4)):
            place, kind = int(rng.integers(0, len(data) + 1)), rng.integers(0, 4)
            if kind == 0:
                data[place : place + 1] = rng.choice(list(b" :[]{},&*!|>-\n\t.0xe"), 1).tolist()
            elif kind == 1:
                data[place:place] = data[place : place + int(rng.integers(1, 20))]
            elif kind == 2:
                del data[place : place + int(rng.integers(1, 6))]
            else:
                data[place:place] = rng.bytes(2)
        path.write_bytes(data)
        fault = None
        try:
            read(path)
        except ConfigError as error:
            fault = str(error)
        tally[fault is None] += 1
        if fault is not None:
            assert str(path) in fault, f"seed {seed}, case {case}"
            assert "\n" not in fault, f"seed {seed}, case {case}"
            assert len(fault) < 3000, f"seed {seed}, case {case}"
    assert min(tally[True], tally[False]) > cases // 50, tally
