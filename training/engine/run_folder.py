"""What a run's folder says about the run: options, machine, code, log."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from segrgbx_core.base.config import Config, to_plain
from training.engine.run_state import write_text

_LIBRARIES = ("torch", "timm", "open_clip_torch", "peft", "accelerate", "transformers", "numpy")


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
