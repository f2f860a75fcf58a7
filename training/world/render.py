"""Renders many scenes into a folder, one compressed file per record.

    python -m training.world.render --out DIR --seeds 0:260 --sensors thermal --workers 2

Files are named `<seed>_<frame>.npz`; `load_record` reads them back. What is already there is kept,
so that a broken run continues where it stopped; a folder of other options is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import DataError, command
from segrgbx_core.base.files import read_json, user_path
from segrgbx_core.base.images import image_size
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from training.world.config import WorldConfig
from training.world.processes import processes
from training.world.records import RENDERED, save_record
from training.world.world import World

_ADVICE = "choose another folder or remove it"


@dataclass(frozen=True)
class Job:
    """One scene to render."""

    seed: int
    times_s: tuple[float, ...]
    sensors: tuple[Modality, ...]
    config: WorldConfig
    folder: Path


def render_job(job: Job) -> tuple[int, float]:
    """Renders one scene; returns the number of new records and the CPU seconds they took."""
    started = time.process_time()
    missing = [
        (index, moment)
        for index, moment in enumerate(job.times_s)
        if not _path(job.folder, job.seed, index).exists()
    ]
    if missing:
        world = World(job.seed, job.config)
        for index, moment in missing:
            save_record(_path(job.folder, job.seed, index), world.record(moment, job.sensors))
    return len(missing), time.process_time() - started


def frame_times(seed: int, count: int, interval_s: float = 0.0) -> tuple[float, ...]:
    """Moments of a scene, in s: that far apart, or with 0 far enough to look different."""
    rng = np.random.default_rng([seed, 5])
    if interval_s > 0:
        start = rng.uniform(0, 1.5)
        return tuple(float(t) for t in np.round(start + np.arange(count) * interval_s, 3))
    return tuple(
        float(t) for t in np.round(np.arange(count) * 2.0 + rng.uniform(0, 1.5, count), 3)
    )


def _path(folder: Path, seed: int, frame: int) -> Path:
    return folder / f"{seed:05d}_{frame:02d}.npz"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(description="Render synthetic scenes for the X modalities.")
    parser.add_argument("--out", type=user_path, required=True, help="folder of the records")
    parser.add_argument("--seeds", default="0:100", help="first:last+1, or a comma list")
    parser.add_argument("--frames-per-scene", type=int, default=2)
    parser.add_argument(
        "--interval",
        type=float,
        default=0.0,
        help="seconds between frames, such as 0.1 for sequences; 0: apart, to look different",
    )
    parser.add_argument(
        "--sensors",
        default="thermal",
        help=f"comma list of {', '.join(RENDERED)}; 'all' takes the paper's five; 'one' draws one "
        "of these per scene; 'none'",
    )
    parser.add_argument("--size", type=image_size, default="320x240", help="WIDTHxHEIGHT of RGB")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    add_set_option(parser, "any other world option")
    return parser.parse_args(argv)


def parse_seeds(text: str) -> list[int]:
    """`"0:3"` or `"4,9"` as integers."""
    if ":" in text:
        first, last = text.split(":")
        return list(range(int(first), int(last)))
    return [int(part) for part in text.split(",")]


def parse_sensors(text: str, seed: int = 0) -> tuple[Modality, ...]:
    """Names as modalities; `all` of the paper's, `none`, or `one` that depends on the seed."""
    if text == "all":
        return MODALITIES
    if text == "none":
        return ()
    if text == "one":
        return (MODALITIES[seed % len(MODALITIES)],)
    known = {modality.value: modality for modality in RENDERED}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise DataError(
            f"sensor '{unknown[0]}' is unknown; choose from {', '.join(known)}, all, one, none"
        )
    return tuple(known[name] for name in text.split(","))


def world_config(
    size: tuple[int, int], changes: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> WorldConfig:
    """The options of a command line.

    Args:
        size: height and width of RGB.
        changes: `NAME=VALUE`, above the defaults.
        defaults: that differ from a world's own.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """
    values = {"height": size[0], "width": size[1], **(defaults or {})}
    return from_mapping(WorldConfig, apply_overrides(values, changes), "--set")


def claim_folder(
    folder: Path, config: WorldConfig, sensors: str = "all", interval_s: float = 0.0
) -> None:
    """Makes a folder for records, or makes sure that one was made for the same ones.

    Args:
        folder: of the records.
        config: their world.
        sensors: as on the command line.
        interval_s: between frames.

    Raises:
        DataError: when the records there come from other options.
    """
    options = {**to_plain(config), "sensors": sensors, "interval_s": interval_s}
    path = folder / "world.json"
    if path.exists() and any(folder.glob("*.npz")):
        # Options that came later had their defaults then.
        kept = read_json(path, advice=_ADVICE)
        if not isinstance(kept, dict):
            raise DataError(f"{path}: is damaged (no options); {_ADVICE}")
        old = to_plain(WorldConfig()) | kept
        other = sorted(name for name in {*old, *options} if old.get(name) != options.get(name))
        if other:
            raise DataError(
                f"{path}: the records there were rendered with another {', '.join(other)}; "
                f"{_ADVICE}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(options, indent=1), encoding="utf-8")


def render_all(jobs: Sequence[Job], workers: int) -> tuple[int, float]:
    """Renders jobs in parallel with a progress bar; returns records and CPU seconds."""
    total, spent = 0, 0.0
    with processes(workers) as pool, tqdm(total=len(jobs), unit="scene") as bar:
        for done in as_completed([pool.submit(render_job, job) for job in jobs]):
            count, seconds = done.result()
            total, spent = total + count, spent + seconds
            bar.set_postfix_str(f"{spent / max(total, 1):.2f} CPU s/record")
            bar.update()
    return total, spent


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = _arguments(argv)
    config = world_config(options.size, options.set)
    claim_folder(options.out, config, options.sensors, options.interval)
    jobs = [
        Job(
            seed,
            frame_times(seed, options.frames_per_scene, options.interval),
            parse_sensors(options.sensors, seed),
            config,
            options.out,
        )
        for seed in parse_seeds(options.seeds)
    ]
    total, spent = render_all(jobs, options.workers)
    each = spent / max(total, 1)
    print(f"{total} records in {options.out}: {spent:.1f} CPU s, {each:.2f} per record")
    return 0


if __name__ == "__main__":
    sys.exit(main())
