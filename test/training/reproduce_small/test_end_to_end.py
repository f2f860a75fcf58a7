"""The paper's experiment in small: its command lines exist, and it goes on where it stopped."""

import json
import sys
from types import SimpleNamespace

import import_graph
import pytest
import source_facts

from segrgbx_core.base.errors import DataError, SegrgbxError
from training.reproduce_small import end_to_end
from training.reproduce_small.end_to_end import DATA_SETS, OUT, Stage, run_stages, stages
from training.stage2.config import read_run


@pytest.mark.parametrize("out", [OUT, OUT.with_name("elsewhere")])
def test_every_command_exists_with_its_flags(out):
    plan = stages(out, 2)
    for stage in plan:
        assert stage.module in import_graph.modules()
        flags = {word for word in stage.arguments if word.startswith("--")}
        assert flags <= source_facts.flags_of(stage.module), stage.command
    assert len({stage.command for stage in plan}) == len(plan)


def test_data_sets_are_those_of_the_run_file():
    run = read_run(end_to_end.JOINT_RUN)
    assert [entry.reader for entry in run.data] == [one.name for one in DATA_SETS]
    assert [entry.modality for entry in run.data] == [one.modality for one in DATA_SETS]
    assert [entry.val_split for entry in run.data] == [one.val_split for one in DATA_SETS]


def test_a_failed_stage_ends_the_run_and_is_run_again(tmp_path, monkeypatch):
    calls, status = [], {"good": 0, "bad": 2}

    def main(arguments):
        calls.append(arguments)
        return status[arguments[0]]

    monkeypatch.setitem(sys.modules, "made_command", SimpleNamespace(main=main))
    plan = [Stage(name, "made_command", (name,)) for name in status]
    with pytest.raises(SegrgbxError, match="bad: ended with status 2"):
        run_stages(plan, tmp_path)
    assert list(json.loads((tmp_path / "stages.json").read_text())) == [plan[0].command]
    status["bad"] = 0
    assert set(run_stages(plan, tmp_path)) == {stage.command for stage in plan}
    assert calls == [["good"], ["bad"], ["bad"]]
    (tmp_path / "stages.json").write_text("[1")
    with pytest.raises(DataError, match="is damaged"):
        run_stages(plan, tmp_path)
