"""A run on disk: its folder with options, machine, code and log, and the state it resumes from.

Every file is written beside its name and then renamed, so that a kill, a power cut or a full disk
at any moment leaves the earlier one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from segrgbx_core.base.config import Config, from_mapping, read_mapping, result_options, to_plain
from segrgbx_core.base.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SegrgbxError,
    shortened,
)
from segrgbx_core.base.files import (
    free_space,
    read_json,
    remove_partials,
    replacing,
    write_text,
)

log = logging.getLogger(__name__)

STATE = "state.pt"
"""Name of the file that a run resumes from."""
_OPTIONS, _LOCK = "config.yaml", "run.lock"
_LIBRARIES = ("torch", "timm", "open_clip_torch", "peft", "accelerate", "transformers", "numpy")
_PARTS = ("progress", "module", "optimizer", "ema", "scaler")
"""What every state holds, each a mapping."""
_SHOWN_DIFFERENCES = 4


def log_to_terminal() -> None:
    """Shows what is logged on standard error, each line with its time of day."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@contextmanager
def run_folder(out: Path | str, config: Config) -> Iterator[Path]:
    """Documents a run in its folder while the block runs.

    Writes `config.yaml` (all options), adds a start to `environment.json` (command,
    commit, machine, versions; one entry per start of the run) and appends the log to `log.txt`,
    at last the error that ended the run. With several processes only the first one writes.

    Args:
        out: the run's folder, created when missing.
        config: the whole run.

    Raises:
        ConfigError: when the folder cannot be created, or another process trains there.
        CheckpointError: when a file of the folder cannot be written or read.
        DataError: when a process that loads data was killed.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.out: {folder}: cannot be made ({error.strerror})") from None
    if int(os.environ.get("RANK", "0")) != 0:
        with _killed_loaders_named():
            yield folder
        return
    with _locked(folder), _logged(folder / "log.txt"), _killed_loaders_named():
        if not (folder / STATE).exists():  # else the loop says whether these options may go on
            write_config(folder, config)
        _add_start(folder / "environment.json")
        yield folder


@contextmanager
def _killed_loaders_named() -> Iterator[None]:
    """Makes one line of a loader process that was killed; torch raises wherever the run is."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        cause = str(error).strip().rstrip(".")
        raise DataError(
            f"run.workers: a process that loads data was killed ({cause}); where memory is short "
            "use fewer of them, then the same command goes on"
        ) from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder; the lock ends with the process."""
    path = folder / _LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = shortened(file.read().strip()) or "another process"
            raise ConfigError(
                f"{folder}: {owner} trains here; wait for its end, or choose another run.out"
            ) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); a second run is not noticed", path, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    except SegrgbxError as error:  # the terminal gets it from the command
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), None))
        raise
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def write_config(folder: Path, config: Config) -> None:
    """Writes a run's options, all of them, to `config.yaml`."""
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    write_text(folder / _OPTIONS, text, CheckpointError)


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
        advice = "move it away: it only documents the starts of the run"
        starts = read_json(path, CheckpointError, advice)
        if not isinstance(starts, list):
            raise CheckpointError(f"{path}: is damaged (no list); {advice}")
    starts.append(environment())
    write_text(path, f"{json.dumps(starts, indent=1)}\n", CheckpointError)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a resumable state, complete or not at all.

    Raises:
        CheckpointError: when the disk is full or cannot be written to.
    """
    # torch reports a failed write as a RuntimeError.
    with (
        replacing(path, CheckpointError, (OSError, RuntimeError)) as part,
        part.open("wb") as file,
    ):
        torch.save(dict(state), file)


def read_state(path: Path) -> dict[str, Any]:
    """A state that `write_state` wrote, its tensors on the CPU.

    Raises:
        CheckpointError: when the file cannot be read, is damaged, or is something else.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        _require_sound(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the parsers of zip and pickle make of other bytes
        reason = shortened(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise CheckpointError(
            f"{path}: is damaged ({reason}); put a copy of it there, or remove it to start anew, "
            "from the beginning"
        ) from None
    wrong = "a mapping" if not isinstance(state, dict) else ""
    wrong = wrong or next((p for p in _PARTS if not isinstance(state.get(p), dict)), "")
    if wrong:
        raise CheckpointError(
            f"{path}: is no training state ({wrong} is missing); put the run's own there, or "
            "remove it to start anew, from the beginning"
        )
    return dict(state)


def _require_sound(path: Path) -> None:
    """Compares checksums, which torch does not, and the size that the content claims."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > path.stat().st_size:
            raise ValueError(f"claims to hold {claimed} bytes")
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"checksum of {broken}")


def require_same_run(
    path: Path, state: Mapping[str, Any], identity: Config, samples: Mapping[str, str]
) -> None:
    """Refuses to resume a run with options or samples other than those that it began with.

    Options that do not affect the result may differ, such as the folder of a data set. Options
    that a state lacks, as they came later, had their default.

    Args:
        path: of the state, put before every message.
        state: as `read_state` gives it. States of earlier versions hold no options and no samples;
            `config.yaml` beside them says what they were begun with.
        identity: the whole run as it is now.
        samples: what each data set holds now, in words.

    Raises:
        CheckpointError: naming what differs.
    """
    beside = path.with_name(_OPTIONS)
    plain = state["options"] if "options" in state else read_mapping(beside)
    try:
        begun = from_mapping(type(identity), plain)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: belongs to a run of another version ({error}); resume with that version, or "
            "choose another run.out"
        ) from None
    others = other_options(begun, identity)
    if others:
        more = len(others) - _SHOWN_DIFFERENCES
        raise CheckpointError(
            f"{path}: belongs to a run with other options: "
            f"{'; '.join(others[:_SHOWN_DIFFERENCES])}{f' and {more} more' if more > 0 else ''}. "
            "Set them as they were, choose another run.out, or remove the folder to start anew"
        )
    held = state.get("samples", samples)
    other = next((name for name in samples if held.get(name) != samples[name]), None)
    if other is not None:
        raise CheckpointError(
            f"{path}: {other} held {held.get(other)} when the run began and holds "
            f"{samples[other]} now; give the run its data set back, choose another run.out, or "
            "remove the folder to start anew"
        )


def other_options(begun: Config, now: Config, also: Collection[str] = ()) -> list[str]:
    """Options that affect the result and differ, as "name was this, is that".

    Args:
        begun: a run.
        now: another of its class.
        also: dotted names of options that count besides.
    """
    old, new = (
        _flat(result_options(one))
        | {name: value for name, value in _flat(to_plain(one)).items() if name in also}
        for one in (begun, now)
    )
    return [
        f"{name} was {_word(old, name)}, is {_word(new, name)}"
        for name in old | new
        if old.get(name) != new.get(name)
    ]


def _flat(plain: Any, name: str = "") -> dict[str, Any]:
    """Nested plain values by dotted name; entries of lists by number."""
    if isinstance(plain, list) and any(isinstance(entry, (dict, list)) for entry in plain):
        plain = dict(enumerate(plain))
    if not isinstance(plain, dict):
        return {name: plain}
    dot = f"{name}." if name else ""
    return {
        place: value
        for key, entry in plain.items()
        for place, value in _flat(entry, f"{dot}{key}").items()
    }


def _word(options: Mapping[str, Any], name: str) -> str:
    return shortened(repr(options[name])) if name in options else "not set"


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
    """Takes lines of later steps out of a file of JSON lines, and the torso of a killed write.

    Raises:
        CheckpointError: for a line that is no record of a step.
    """
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    # Behind the last line break stands what a kill or a full disk left of a line.
    lines = text.split("\n")[:-1]
    kept = ""
    for number, line in enumerate(lines, start=1):
        try:
            is_kept = json.loads(line)["step"] <= step
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CheckpointError(
                f"{path}: line {number} is no record of a step ('{shortened(line)}'); remove it"
            ) from None
        kept += f"{line}\n" if is_kept else ""
    if kept != text:
        write_text(path, kept, CheckpointError)


def remove_leftovers(folder: Path) -> None:
    """Removes files that killed processes had begun; they would fill the disk in time."""
    remove_partials(folder, depth=2)
    for path in folder.glob("*.partial"):  # as versions before named them
        path.unlink(missing_ok=True)
