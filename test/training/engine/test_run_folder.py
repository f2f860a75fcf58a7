"""A run's folder: who may train there, whose state it holds, and what is wrong with a state."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stage2_case import assert_same_run, curve_of, read_case, state_of, write_run
from torch.utils.data import DataLoader, Dataset

from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError, SegrgbxError
from training.data import datasets
from training.engine import loop as engine_loop
from training.engine.loop import Loop, TrainingDivergedError
from training.engine.run import (
    forget_after,
    other_options,
    read_state,
    require_same_run,
    run_folder,
)
from training.stage2.task import SegmentationTask, train
from training.train_segmentation import main

pytestmark = pytest.mark.usefixtures("made_readers")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, made_readers):
    """The folder of a run that has ended, with `run.yaml` beside it."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder, {"optimizer": {"ema_decay": 0.9}})
    train(read_case(folder))
    return folder / "a"


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of that run, and what starts it again."""
    shutil.copy(trained.parent / "run.yaml", tmp_path)
    out = shutil.copytree(trained, tmp_path / "a")
    return out, lambda *changes: train(read_case(tmp_path, *changes))


# --- whose run a folder holds


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate was 0.0001, is 0.5"),
        ("run.steps=6", "run.steps was 4, is 6"),
        ("data.0.share=0.5", "data.0.share was 0.0, is 0.5"),
        ("data.0.modality=depth", "data.0.modality was 'thermal', is 'depth'"),
        ("clip.stale.probability=0.5", "clip.stale.probability was 0.0, is 0.5"),
        ("loss.class_weight_table={person: 2}", "loss.class_weight_table.person was not set, is"),
        ("encoder_weights=a.pth", "encoder_weights was '', is 'a.pth'"),
    ],
)
def test_options_that_differ_are_named(trained, change, named):
    identity = read_case(trained.parent, change)
    with pytest.raises(CheckpointError, match="run with other options: ") as caught:
        require_same_run(trained / "state.pt", state_of(trained), identity, {})
    assert named in str(caught.value)


def test_many_options_that_differ_are_counted(trained):
    changes = (f"augment.{name}=0.9" for name in ("flip", "jitter", "blur", "dark", "drop_x"))
    identity = read_case(trained.parent, *changes)
    with pytest.raises(CheckpointError, match=r"augment.dark .* and 1 more\. Set them as they"):
        require_same_run(trained / "state.pt", state_of(trained), identity, {})


def test_what_does_not_affect_the_result_may_differ(trained):
    changes = ("log_every=3", "save_every=1", "pictures=3", "workers=2", "patience=5", "out=else")
    identity = read_case(trained.parent, *(f"run.{change}" for change in changes))
    assert other_options(read_case(trained.parent), identity) == []
    assert other_options(read_case(trained.parent), identity, {"run.patience"}) == [
        "run.patience was 0, is 5"
    ]


def test_options_that_came_later_had_their_default(trained):
    state = state_of(trained)
    del state["options"]["loss"]["hard_below"]
    del state["options"]["clip"]["stale"]
    require_same_run(trained / "state.pt", state, read_case(trained.parent), {})
    identity = read_case(trained.parent, "loss.hard_below=0.7")
    with pytest.raises(CheckpointError, match=r"loss.hard_below was 0.0, is 0.7"):
        require_same_run(trained / "state.pt", state, identity, {})


def test_options_that_went_are_another_version(trained):
    state = state_of(trained)
    state["options"]["loss"]["colour"] = 1
    with pytest.raises(CheckpointError, match=r"another version \(unknown option 'loss.colour'"):
        require_same_run(trained / "state.pt", state, read_case(trained.parent), {})


def test_states_without_options_are_known_by_the_file_beside_them(copy):
    """As versions wrote them that kept a hash of the options."""
    out, start = copy
    state = state_of(out)
    del state["options"], state["samples"]
    torch.save({**state, "fingerprint": "0" * 64}, out / "state.pt")
    start()
    with pytest.raises(CheckpointError, match=r"run.seed was 0, is 1"):
        start("run.seed=1")


def test_a_data_folder_that_moved_is_no_other_run(copy, trained):
    out, start = copy
    start("data.0.root=..")
    assert_same_run(out, trained)


def test_other_samples_are_another_run(copy, monkeypatch):
    _, start = copy
    monkeypatch.setattr(datasets.READERS["patches"], "__len__", lambda self: 9)
    with pytest.raises(CheckpointError, match=r"data.0 held 10 samples when .* holds 9 samples"):
        start()


def test_samples_are_known_by_their_names(trained):
    class Named(datasets.READERS["patches"]):
        ids = tuple("abcdefghij")

    class Others(Named):
        ids = tuple("abcdefghik")

    texts = [datasets.samples_text(kind(".", "train", "thermal")) for kind in (Named, Others)]
    assert texts[0] != texts[1]
    assert all(text.startswith("10 samples (") for text in texts)


# --- one run at a time

HOLD = """
import sys, time
from training.engine.run import run_folder
from segrgbx_core.base.config import Config
with run_folder(sys.argv[1], Config()):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in `tmp_path / "a"`, as far as its folder is concerned."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_in_a_folder_is_refused(holder, tmp_path, capsys):
    before = (tmp_path / "a/environment.json").read_text()
    path = write_run(tmp_path)
    assert main([str(path), "--set", f"run.out={tmp_path / 'a'}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'a'}: process {holder.pid} on {os.uname().nodename} trains here" in line
    assert (tmp_path / "a/environment.json").read_text() == before


def test_a_killed_run_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run_folder(tmp_path / "a", read_case(tmp_path)):
        assert (tmp_path / "a/run.lock").read_text().startswith(f"process {os.getpid()} on ")


class _KillsItsReader(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_is_one_line(tmp_path):
    with (
        pytest.raises(DataError, match=r"run.workers: .* was killed \(DataLoader worker .*fewer"),
        run_folder(tmp_path / "a", read_case(tmp_path)),
    ):
        list(DataLoader(_KillsItsReader(), num_workers=1))
    assert "was killed" in (tmp_path / "a/log.txt").read_text()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run.out: .*file/a: cannot be made \(Not a directory"):
        train(read_case(tmp_path, out="file/a"))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read_case(tmp_path, "run.out=~/runs", "data.0.root=~/data", "init=~/a.safetensors")
    assert config.run.out == f"{tmp_path}/runs"
    assert config.data[0].root == f"{tmp_path}/data"
    assert config.init == f"{tmp_path}/a.safetensors"


# --- loss and weights that are not finite


def poisoned(monkeypatch, step, value=float("nan")):
    """From a step on, every update leaves a weight that is not finite."""
    whole = engine_loop.Loop._step

    def poisons(self, number, batch):
        terms = whole(self, number, batch)
        if number >= step:
            next(p for p in self.module.parameters() if p.requires_grad).data.view(-1)[0] = value
        return terms

    monkeypatch.setattr(engine_loop.Loop, "_step", poisons)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_last_finite_state_and_checkpoint_stay(tmp_path, monkeypatch, capsys, value):
    """The loss of the last step before a save says nothing about what its update has done."""
    path = write_run(tmp_path, {"run": {"save_every": 1, "score_every": 2, "steps": 4}})
    poisoned(monkeypatch, 2, value)
    assert main([str(path), "--set", f"run.out={tmp_path / 'a'}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("step 3: 'model.")
    assert f"is not finite; {tmp_path}/a/state.pt keeps the last finite one, of step 2" in line
    assert "lower optimizer.learning_rate (was 0.0001)" in line
    assert line.endswith("optimizer.clip_norm (was 0, no limit)")
    state = state_of(tmp_path / "a")
    assert state["progress"]["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["module"].values())
    assert line in (tmp_path / "a/log.txt").read_text()
    monkeypatch.undo()
    # The advice works: another folder and a lower rate.
    advised = ("--set", f"run.out={tmp_path / 'b'}", "optimizer.learning_rate=1e-5")
    assert main([str(path), *advised]) == 0


def test_a_rate_that_diverges_ends_the_run(tmp_path):
    changes = ("optimizer.learning_rate=1e30", "run.steps=6", "run.save_every=100")
    with pytest.raises(TrainingDivergedError, match=r"no state was saved before\. Start in anot"):
        train(read_case(tmp_path, *changes))
    assert not (tmp_path / "a/state.pt").exists()
    assert not (tmp_path / "a/last.safetensors").exists()
    assert len(curve_of(tmp_path / "a")) < 6


def test_a_state_of_a_diverged_run_is_not_resumed(copy):
    """As versions wrote them that looked at the loss alone."""
    out, start = copy
    state = state_of(out)
    name = next(name for name in state["module"] if name.endswith("weight"))
    state["module"][name].view(-1)[0] = float("nan")
    torch.save(state, out / "state.pt")
    with pytest.raises(CheckpointError, match=r"'model\..*' is not finite, the run had diverged"):
        start()


def test_a_score_that_is_no_number_is_never_the_best(tmp_path, monkeypatch):
    scores = iter([float("nan"), 0.25, float("nan"), 0.125])
    monkeypatch.setattr(SegmentationTask, "score", lambda *_: {"score": next(scores)})
    train(read_case(tmp_path, "run.score_every=1"))
    assert state_of(tmp_path / "a")["progress"]["best"] == 0.25


# --- what is wrong with a state


def changed(*way):
    """Writes a state in which one entry, by its keys, is another; None takes it away."""
    *keys, last, value = way

    def change(path):
        state = torch.load(path, weights_only=True)
        place = state
        for key in keys:
            place = place[key]
        place[last] = value
        if value is None:
            del place[last]
        torch.save(state, path)

    return change


def bytes_of(edit):
    return lambda path: path.write_bytes(edit(path.read_bytes()))


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def folder_instead(path):
    path.unlink()
    path.mkdir()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/segrgbx_must_not_be_made",)


MODULE = "model.head.classifier.weight"
DAMAGES = {
    "empty": (bytes_of(lambda data: b""), "is damaged"),
    "cut in half": (bytes_of(lambda data: data[: len(data) // 2]), "is damaged"),
    "last byte missing": (bytes_of(lambda data: data[:-1]), "is damaged"),
    "another file": (bytes_of(lambda data: b"nothing of the kind" * 99), "is damaged"),
    "one bit of a weight": (bytes_of(flipped), r"is damaged \(checksum of "),
    "code": (lambda path: torch.save(Evil(), path), "is damaged"),
    "a folder": (folder_instead, r"cannot be read \(Is a directory\)"),
    "a list": (lambda path: torch.save([1, 2], path), "is no training state"),
    "weights alone": (lambda path: torch.save({"a": torch.ones(2)}, path), "is no training state"),
    "no optimizer": (changed("optimizer", None), r"is no training state \(optimizer is missing"),
    "no step": (changed("progress", "step", None), "is damaged|does not fit"),
    "a step as text": (changed("progress", "step", "3"), "does not fit the run's model"),
    "a step beyond the end": (changed("progress", "step", 99), "does not fit .*step 99 of 4"),
    "a best score as text": (changed("progress", "best", "x"), "does not fit .*best score x"),
    "more progress": (changed("progress", "colour", 1), "does not fit"),
    "a weight missing": (changed("module", MODULE, None), "does not fit"),
    "a weight more": (changed("module", "x", torch.ones(1)), "does not fit .*first at 'x'"),
    "a weight of another shape": (changed("module", MODULE, torch.ones(3)), "does not fit"),
    "a weight that is none": (changed("module", MODULE, "text"), "does not fit"),
    "no averages": (changed("ema", {}), "does not fit the run's model"),
    "no groups": (changed("optimizer", "param_groups", None), "does not fit"),
    "groups that are none": (changed("optimizer", "param_groups", [1]), "does not fit"),
    "a moment of another shape": (
        changed("optimizer", "state", 0, "exp_avg", torch.ones(2)),
        "does not fit .*exp_avg",
    ),
    "no step of a weight": (
        changed("optimizer", "state", 0, "step", None),
        "does not fit .*'step'",
    ),
    "options that are none": (changed("options", 5), "another version"),
    "samples that are none": (changed("samples", {"data.0": "none"}), "held none when the run"),
}


@pytest.fixture(scope="module")
def task(trained):
    config = read_case(trained.parent)
    return SegmentationTask(config)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_state_that_cannot_be_used_is_one_line(copy, task, kind):
    out, _ = copy
    damage, message = DAMAGES[kind]
    damage(out / "state.pt")
    run = task.config.run.model_copy(update={"out": str(out)})
    with pytest.raises(CheckpointError, match=message) as caught:
        Loop(task, run, task.config.optimizer, task.config)
    line = str(caught.value)
    assert line.startswith(f"{out / 'state.pt'}: ")
    assert len(line.splitlines()) == 1
    assert len(line) < 600
    assert not Path("/tmp/segrgbx_must_not_be_made").exists()


def test_a_damaged_state_ends_the_command_with_2(copy, tmp_path, capsys):
    out, _ = copy
    (out / "state.pt").write_bytes(b"")
    assert main([str(tmp_path / "run.yaml"), "--set", f"run.out={out}"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"{out / 'state.pt'}: is damaged (")
    assert "Traceback" not in error


def test_a_state_without_rights_is_not_called_damaged(copy, monkeypatch):
    out, _ = copy

    def refuses(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(CheckpointError) as caught:
        read_state(out / "state.pt")
    assert str(caught.value) == f"{out / 'state.pt'}: cannot be read (Permission denied)"


def test_any_other_byte_of_a_state_is_noticed(copy):
    """Flipped, cut and doubled places: damaged in one line, or still the same state."""
    out, _ = copy
    path, chance = out / "state.pt", np.random.default_rng(3)
    data, sound = path.read_bytes(), state_of(out)
    noticed = 0
    for _ in range(100):
        broken = bytearray(data)
        for _ in range(int(chance.integers(1, 4))):
            broken[int(chance.integers(len(broken)))] = int(chance.integers(256))
        if chance.random() < 0.2:
            del broken[int(chance.integers(len(broken))) :]
        path.write_bytes(broken)
        try:
            found = read_state(path)
        except SegrgbxError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            noticed += 1
            continue
        assert found["progress"] == sound["progress"]
        assert all(torch.equal(found["module"][n], v) for n, v in sound["module"].items())
    assert noticed > 66


# --- the other files of a run's folder


def test_a_damaged_environment_file_is_named(copy):
    out, start = copy
    for content in ("[", "5", '{"a": ' * 100_000):
        (out / "environment.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"environment.json: is damaged .*move it away"):
            start()


@pytest.mark.parametrize("line", ["nothing", "[1]", '{"loss": 1}', "[" * 100_000, '{"step": "x"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps({'step': 1})}\n{line}\n")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: line 2 is no record of a step"):
        forget_after(path, 2)


def test_options_of_a_run_are_written_whole(trained):
    written = yaml.safe_load((trained / "config.yaml").read_text())
    assert written["run"]["steps"] == 4
    assert state_of(trained)["options"] == written
