"""Writing that leaves the old file or the new one, and paths as users write them."""

import os
from pathlib import Path

import pytest

from segrgbx_core.base.config import Config, PathText, from_mapping, option
from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError
from segrgbx_core.base.files import (
    expand_home,
    read_bytes,
    remove_partials,
    replacing,
    user_path,
    write_bytes,
    write_text,
)


class Places(Config):
    out: PathText = option("", doc="a folder")
    home: PathText = option("~/runs", doc="a folder")


def write_half(path, failure):
    with replacing(path, CheckpointError, (RuntimeError,)) as part:
        part.write_text("half")
        raise failure


def test_home_is_expanded_in_options_and_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = from_mapping(Places, {"out": "~/a/~b"})
    assert (found.out, found.home) == (f"{tmp_path}/a/~b", f"{tmp_path}/runs")
    assert user_path("~/x") == tmp_path / "x"
    assert expand_home("./~/x") == "./~/x"
    assert from_mapping(Places, {}).out == ""


def test_unknown_home_is_refused():
    with pytest.raises(ConfigError, match=r"out: .*'~nobody_here' is not known; write the whole"):
        from_mapping(Places, {"out": "~nobody_here/x"})


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError):
        write_half(path, KeyError())
    assert path.read_text() == "old"
    write_bytes(path, b"new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_is_one_sentence(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    failure = RuntimeError("write failed")
    failure.__context__ = OSError(28, "disk is full")
    with pytest.raises(CheckpointError, match=r"a\.txt: cannot be written \(.*full.*free there"):
        write_half(path, failure)
    assert path.read_text() == "old"
    with pytest.raises(DataError, match="cannot be written"):
        write_text(path / "below_a_file", "x")


def test_leftovers_of_killed_processes_go(tmp_path):
    names = [".a.txt.123.part", "sub/.b.safetensors.9.part", "keep.part", "sub/keep"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert not (tmp_path / names[0]).exists()
    assert (tmp_path / names[1]).exists()
    remove_partials(tmp_path, depth=2)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"keep.part", "sub/keep"}


def test_paths_stay_text():
    assert isinstance(expand_home("~"), str)
    assert user_path("a") == Path("a")
    assert os.fspath(user_path("~")) == expand_home("~")


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/null"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"(pipe|zero|null): is no regular file; expected one"):
        read_bytes(tmp_path / place, 100)


def test_long_text_of_a_user_is_cut(tmp_path):
    with pytest.raises(ConfigError) as caught:
        expand_home("~" + "z" * 6000)
    assert len(str(caught.value)) < 500
