"""What the run files of both stages share: length and bookkeeping of a run, and how they are read.

A run file names presets of model and tower and states what differs from them and the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import field_validator, model_validator

from segrgbx_core.base.config import (
    Config,
    ConfigT,
    PathText,
    from_mapping,
    option,
    read_mapping,
    to_plain,
)
from segrgbx_core.base.errors import ConfigError, did_you_mean, shortened
from segrgbx_core.base.overrides import apply_overrides
from segrgbx_core.runtime.batch import InputConfig, ResizeMode
from segrgbx_core.runtime.options import InferenceConfig
from training.data.config import fill_modalities
from training.data.mixing import Sampling
from training.engine.batch_norm import BatchNormMode

DEVICES = ("auto", "cpu")
PRECISIONS = ("no", "bf16", "fp16")
MAX_DRAWS = 100_000_000
"""Most samples that a run draws; their order is planned ahead, in 40 bytes each."""


class RunConfig(Config):
    """Length, place and bookkeeping of a run."""

    out: PathText = option(doc="folder for checkpoints, state and logs", affects_result=False)
    steps: int = option(1000, doc="optimizer steps", low=1, high=MAX_DRAWS)
    epochs: float = option(
        0.0,
        doc="length in place of steps: as many draws as all data sets together have samples, "
        "times this; 0 goes by steps",
        low=0,
        high=1e6,
    )
    batch_size: int = option(8, doc="samples per step over all devices", low=1, high=65536)
    accumulate: int = option(
        1,
        doc="parts into which a device takes its share of a step, one after the other: the same "
        "step in a fraction of the memory",
        low=1,
    )
    batch_norm: BatchNormMode = option(
        BatchNormMode.OWN,
        doc="whose statistics BatchNorm takes: own (of the samples that a device has at once), "
        "shared (of all devices) or frozen (of the checkpoint that the run starts from)",
    )
    seed: int = option(0, doc="random seed of everything", low=0, high=2**31 - 1)
    sampling: Sampling = option(
        Sampling.PROPORTIONAL, doc="how often each data set is drawn: proportional or equal"
    )
    half_checkpoints: bool = option(False, doc="store checkpoints as 16-bit floats, half the size")
    keep_frames: bool = option(
        False, doc="keep prepared frames in memory, for data sets that fit", affects_result=False
    )
    device: str = option(
        "auto",
        doc="auto or cpu; CUDA_VISIBLE_DEVICES chooses among several GPUs",
        affects_result=False,
    )
    precision: str = option("no", doc="mixed precision of accelerate: no, bf16 or fp16")
    channels_last: bool = option(
        False, doc="keep images with channels innermost; faster on most CPUs"
    )
    threads: int = option(
        0,
        doc="threads of one operation on a CPU; 0 leaves torch's choice",
        low=0,
        high=4096,
        affects_result=False,
    )
    workers: int = option(
        0, doc="processes that load and augment", low=0, high=1024, affects_result=False
    )
    log_every: int = option(
        20, doc="steps between log lines", unit="steps", low=1, affects_result=False
    )
    save_every: int = option(
        200, doc="steps between saved training states", unit="steps", low=1, affects_result=False
    )
    score_every: int = option(
        1000,
        doc="steps between scores on the val splits",
        unit="steps",
        low=1,
        affects_result=False,
    )
    score_samples: int = option(
        0, doc="val samples per data set while training; 0 for all", low=0, affects_result=False
    )
    patience: int = option(
        0,
        doc="scores in a row without a new best after which the run ends; 0 never",
        low=0,
        affects_result=False,
    )
    tensorboard: bool = option(
        False, doc="write TensorBoard files besides metrics.jsonl", affects_result=False
    )
    pictures: int = option(
        0,
        doc="val samples per data set that are drawn at every score, truth beside answer",
        low=0,
        affects_result=False,
    )

    @model_validator(mode="after")
    def _can_be_planned(self) -> RunConfig:
        require_draws(self.steps, self.batch_size)
        return self

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value not in DEVICES:
            raise ValueError(f"is not one of {', '.join(DEVICES)}; see CUDA_VISIBLE_DEVICES")
        return value

    @field_validator("precision", mode="before")
    @classmethod
    def _known_precision(cls, value: object) -> object:
        value = "no" if value is False else value  # what YAML makes of a bare no
        if value not in PRECISIONS:
            raise ValueError(f"is not one of {', '.join(PRECISIONS)}")
        return value


def in_steps(run: RunConfig, samples: int) -> RunConfig:
    """The same run with its length in steps.

    Args:
        run: may count in epochs.
        samples: of all training splits together, one epoch.
    """
    if not run.epochs:
        return run
    steps = max(1, math.ceil(run.epochs * samples / run.batch_size))
    require_draws(steps, run.batch_size)
    return run.model_copy(update={"steps": steps})


def require_draws(steps: int, batch_size: int) -> None:
    """Refuses a run whose order cannot be planned.

    Raises:
        ConfigError: for more than `MAX_DRAWS` samples.
    """
    if steps * batch_size > MAX_DRAWS:
        raise ConfigError(
            f"run.steps: {steps} steps of {batch_size} samples are above {MAX_DRAWS} draws; "
            "lower run.steps, run.epochs or run.batch_size"
        )


def scoring_options(run: RunConfig) -> InferenceConfig:
    """Where a run's checkpoints are scored: on its device, without changing torch's threads."""
    return InferenceConfig(device=run.device, threads=torch.get_num_threads())


def require_stretch(size: InputConfig, where: str = "") -> None:
    """Refuses a letterbox, which neither embeddings nor crops of a training support.

    Args:
        size: of the run.
        where: put before the message.

    Raises:
        ConfigError: when `input.resize_mode` is another than `stretch`.
    """
    if size.resize_mode is not ResizeMode.STRETCH:
        raise ConfigError(
            f"{where}input.resize_mode: {size.resize_mode.value} is not supported in training; "
            "train with stretch and set model.resize_mode where the checkpoint runs"
        )


def read_tree(
    kind: type[ConfigT],
    path: Path | str,
    overrides: Sequence[str],
    presets: Mapping[str, tuple[str, Mapping[str, Config]]],
    complete: Callable[[dict[str, Any]], None] = fill_modalities,
) -> ConfigT:
    """Reads a run file of any stage.

    Args:
        kind: class of the run.
        path: YAML file.
        overrides: `a.b=value` each, above the file; see `apply_overrides`.
        presets: by the key that names one: the section it fills, and what there is to choose from.
        complete: adds to the file's plain values, after the overrides, what the file leaves open.

    Raises:
        ConfigError: when the file or an override is wrong.
    """
    where = str(path)
    data = apply_overrides(read_mapping(path), overrides)
    complete(data)
    for key, (section, known) in presets.items():
        name = data.pop(key, None)
        if name is None:
            continue
        if not isinstance(name, str) or name not in known:
            text = shortened(str(name))
            raise ConfigError(f"{where}: {key} '{text}' is not known{did_you_mean(text, known)}")
        data[section] = merged(to_plain(known[name]), options_of(data, section, where))
    return from_mapping(kind, data, where)


def options_of(data: Mapping[str, Any], section: str, where: str) -> dict[str, Any]:
    """The plain options of a section of a run file, which may be absent or empty.

    Raises:
        ConfigError: when it holds something else.
    """
    options = data.get(section)
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"{where}: {section}: holds {type(options).__name__}; expected names with values"
        )
    return dict(options)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain values with changes on top."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        both[key] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
        )
    return both
