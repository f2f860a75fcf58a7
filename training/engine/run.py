"""A run on disk: its folder with options, machine, code and log, and the state it resumes from.

Every file is written beside its name and then renamed, so that a kill, a power cut or a full disk
at any moment leaves the earlier one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml

from segrgbx_core.base.config import Config, to_plain
from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.files import free_space
from segrgbx_core.model.tensor_files import SUFFIX

_LIBRARIES = ("torch", "timm", "open_clip_torch", "peft", "accelerate", "transformers", "numpy")
_HARMLESS = {
    *("out", "device", "threads", "workers", "tensorboard", "pictures"),
    *("log_every", "save_every", "score_every", "score_samples", "keep_frames", "patience"),
}
"""Options of `RunConfig` that may differ when a run is resumed."""
_LATER = (
    *("run.epochs", "run.accumulate", "run.batch_norm", "encoder_weights", "clip.stale"),
    *("loss.class_weight_table", "loss.hard_below", "loss.hard_share"),
    *("classes", "freeze"),
)
"""Options that came after the first runs: at their default they are as if they were not there, so
that a run begun without them goes on."""


def log_to_terminal() -> None:
    """Shows what is logged on standard error, each line with its time of day."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@contextmanager
def run_folder(out: Path | str, config: Config) -> Iterator[Path]:
    """Documents a run in its folder while the block runs.

    Writes `config.yaml` (all options), adds a start to `environment.json` (command,
    commit, machine, versions; one entry per start of the run) and appends the log to `log.txt`.
    With several processes only the first one writes.

    Args:
        out: the run's folder, made when missing.
        config: the whole run.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("RANK", "0")) != 0:
        yield folder
        return
    if not (folder / "state.pt").exists():  # else the loop says whether these options may go on
        write_config(folder, config)
    _add_start(folder / "environment.json")
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield folder
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def write_config(folder: Path, config: Config) -> None:
    """Writes a run's options, all of them, to `config.yaml`."""
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)


def environment() -> dict[str, Any]:
    """Command, commit, machine and versions of this process."""
    has_cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if has_cuda
        else ["cpu"],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def git_commit() -> str:
    """The checkout's commit with `-dirty` where tracked files differ; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def without_places(plain: Any) -> Any:
    """Plain values, absolute paths cut to their last part: checkpoints travel, disks do not."""
    if isinstance(plain, dict):
        return {name: without_places(value) for name, value in plain.items()}
    if isinstance(plain, list):
        return [without_places(value) for value in plain]
    is_place = isinstance(plain, str) and Path(plain).is_absolute()
    return Path(plain).name if is_place else plain


def _add_start(path: Path) -> None:
    starts: list[dict[str, Any]] = []
    if path.exists():
        starts = json.loads(path.read_text(encoding="utf-8"))
    starts.append(environment())
    write_text(path, f"{json.dumps(starts, indent=1)}\n")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def fingerprint(identity: Config) -> str:
    """Identifies every option that decides the outcome of a run."""
    plain = to_plain(identity)
    plain["run"] = {k: v for k, v in plain.get("run", {}).items() if k not in _HARMLESS}
    for entry in plain.get("data", ()):
        if not entry.get("identity"):
            entry.pop("identity", None)
    for name in _LATER:
        _leave_out(plain, identity, name)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _leave_out(plain: dict[str, Any], config: Config, name: str) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in plain:
            return
        plain, config = plain[part], getattr(config, part)
    fields = type(config).model_fields
    if last in fields and getattr(config, last) == fields[last].get_default():
        plain.pop(last, None)


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file complete or not at all.

    Args:
        path: the file; an earlier one is replaced when the new one has reached the disk.
        write: puts the content into an open file.

    Raises:
        CheckpointError: when the disk is full or cannot be written to.
    """
    partial = path.with_suffix(f"{path.suffix}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        partial.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"{path}: cannot be written ({cause}), {free_space(path)} free there; make room and "
            "start the same command again: it goes on from the earlier file"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file; see `write_whole`."""
    content = text.encode()
    write_whole(path, lambda file: _put(file, content))


def _put(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a resumable state; see `write_whole`."""
    write_whole(path, lambda file: torch.save(dict(state), file))


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """A state that `write_state` wrote.

    Raises:
        CheckpointError: when the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(
            f"{path}: is damaged ({reason}); remove it to start anew, from the beginning"
        ) from None
    return state


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file.

    Raises:
        CheckpointError: when the disk is full or cannot be written to.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}), {free_space(path)} free there; make room and "
            "start the same command again"
        ) from error


def forget_after(path: Path, step: int) -> None:
    """Takes lines of later steps out of a file of JSON lines, and the torso of a killed write."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    # Behind the last line break stands what a kill or a full disk left of a line.
    lines = text.split("\n")[:-1]
    kept = "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step)
    if kept != text:
        write_text(path, kept)


def remove_leftovers(folder: Path) -> None:
    """Removes files that killed processes had begun; they would fill the disk in time."""
    for pattern in ("*.partial", f".*{SUFFIX}.*.part", f"*/.*{SUFFIX}.*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
