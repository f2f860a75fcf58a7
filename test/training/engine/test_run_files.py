"""Run files: what they may say, in the same words for both stages; anything else is one error."""

import copy
import random

import numpy as np
import pytest
import yaml
from stage2_case import RUN, write_run

from segrgbx_core.base.errors import ConfigError, SegrgbxError
from training.engine.config import in_steps
from training.stage1.config import read_ma_clip_run
from training.stage2.config import read_run

STAGE_1 = {
    "tower": "tiny",
    "captions": "c.jsonl",
    "data": RUN["data"],
    "run": {"out": "a"},
    "text": {"model": "tiny"},
    "input": {"height": 32},
    "loss": {},
}
STAGE_2 = {
    **RUN,
    "run": {**RUN["run"], "out": "a"},
    "clip": {"weights": ""},
    "loss": {"class_weight_table": {"person": 2}, "unified_ignore": ["mfnet.bump"]},
    "encoding": {"thermal": {}},
}
ODD = (
    *(None, True, -1, 0, 5, 1.5, 10**30, float("nan"), float("inf"), "", "text", "a" * 5000),
    *("~nobody/x", "a\0b", [], [1], [[]], [None], {}, {"a": 1}, {1: 2}, {"reader": 1}),
)


@pytest.mark.parametrize("text", ["6e-5", "6.0e-5", "0.00006", "6E-5"])
def test_numbers_with_an_exponent_are_numbers(tmp_path, text):
    path = write_run(tmp_path, {"run": {"out": "a"}})
    path.write_text(path.read_text() + f"optimizer: {{learning_rate: {text}}}\n")
    assert read_run(path).optimizer.learning_rate == 6e-5
    override = [f"optimizer.learning_rate={text}"]
    assert read_run(path, override).optimizer.learning_rate == 6e-5


@pytest.mark.parametrize("section", ["model", "ma_clip"])
@pytest.mark.parametrize("value", [5, "text", [1], [[1, 2]], True])
def test_a_section_that_is_none_is_named(tmp_path, section, value):
    path = write_run(tmp_path, {"run": {"out": "a"}})
    run = yaml.safe_load(path.read_text()) | {section: value}
    path.write_text(yaml.safe_dump(run))
    with pytest.raises(ConfigError, match=rf"run\.yaml: {section}: holds \w+; expected names"):
        read_run(path)


@pytest.mark.parametrize("name", ["huge", 5, ["tiny"], {"tiny": 1}, "a" * 5000])
def test_a_preset_that_is_none_is_named(tmp_path, name):
    for key, read, run in (("preset", read_run, STAGE_2), ("tower", read_ma_clip_run, STAGE_1)):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(run | {key: name}))
        with pytest.raises(ConfigError, match=rf"run\.yaml: {key} '.{{1,80}}' is not known"):
            read(path)


def places(tree, way=()):
    """The keys to every value of nested mappings and lists."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield (*way, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*way, key))


@pytest.mark.parametrize(("read", "run"), [(read_run, STAGE_2), (read_ma_clip_run, STAGE_1)])
def test_any_value_in_any_place_is_read_or_one_error(tmp_path, read, run):
    chance, path, refused = random.Random(7), tmp_path / "run.yaml", 0
    for _ in range(400):
        tree = copy.deepcopy(run)
        for _ in range(chance.choice((1, 1, 2))):
            *way, last = chance.choice(list(places(tree)))
            place = tree
            for key in way:
                place = place[key]
            place[last] = copy.deepcopy(chance.choice(ODD))
        path.write_text(yaml.safe_dump(tree))
        try:
            read(path)
        except SegrgbxError as error:
            assert len(str(error)) < 500  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    "options",
    [
        ("run.steps=100000000", "run.batch_size=2"),
        ("run.steps=1000000", "run.batch_size=65536"),
    ],
)
def test_a_run_that_cannot_be_planned_is_refused(tmp_path, options):
    path = write_run(tmp_path, {"run": {"out": "a"}})
    with pytest.raises(ConfigError, match=r"are above 100000000 draws; lower run\.steps"):
        read_run(path, options)


def test_epochs_that_cannot_be_planned_are_refused(tmp_path):
    path = write_run(tmp_path, {"run": {"out": "a"}})
    run = read_run(path, ["run.epochs=1000000"]).run
    with pytest.raises(ConfigError, match="are above 100000000 draws"):
        in_steps(run, 1000)
    with pytest.raises(ConfigError, match=r"run.epochs: .* is outside \[0, 1e\+06\]"):
        read_run(path, [f"run.epochs={np.finfo(float).max}"])
