"""One loop for every stage: step, precision, averaging, log, save, score, resume.

A run is resumed exactly: the order of samples and every random number of step n are functions of
the seed and of n, so the state on disk is weights, optimizer, averaged weights and the step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn

from segrgbx_core.config import Config, to_plain
from segrgbx_core.errors import CheckpointError
from training.config import RunConfig
from training.schedule import (
    OptimizerConfig,
    build_optimizer,
    ema_factor,
    learning_rate,
    set_learning_rate,
)

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]

_HARMLESS = {
    *("out", "device", "threads", "workers", "tensorboard"),
    *("log_every", "save_every", "score_every", "score_samples", "keep_frames", "patience"),
}
"""Options of `RunConfig` that may differ when a run is resumed."""


class Task(Protocol):
    """What a stage gives to the loop.

    Attributes:
        objective: trained module; its `forward(batch)` returns scalars, among them `loss`.
    """

    objective: nn.Module

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on, until the run ends."""
        ...

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes a checkpoint with the objective's present weights."""
        ...

    def score(self, path: Path) -> dict[str, float]:
        """Scores a checkpoint; `score` decides which one is the best."""
        ...


class AveragedWeights:
    """Exponential moving average of trained values and of buffers that change."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in _trained(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average towards the module's present weights."""
        share = 1.0 - ema_factor(self.decay, step)
        for name, value in _trained(module):
            self.values[name].lerp_(value.detach(), share)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Lets the module hold the average for a while."""
        own = {name: value.detach().clone() for name, value in _trained(module)}
        _load(module, self.values)
        try:
            yield
        finally:
            _load(module, own)


def _trained(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from (item for item in module.named_parameters() if item[1].requires_grad)
    yield from (item for item in module.named_buffers() if "running_" in item[0])


@torch.no_grad()
def _load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in _trained(module):
        value.copy_(values[name])


@dataclass
class Progress:
    """What survives a kill besides tensors.

    Attributes:
        step: steps done.
        best: best score so far, None before the first.
        stale: scores since the best one.
        seconds: wall-clock spent in steps so far.
    """

    step: int = 0
    best: float | None = None
    stale: int = 0
    seconds: float = 0.0


class Loop:
    """Runs a task to its end, or on from where it was killed.

    Args:
        task: the stage.
        run: length, place and bookkeeping.
        optimizer: optimizer and learning rate.
        identity: everything that decides the outcome; a run resumes only under the same.
        rests: True where a step may leave some of the trained weights without a gradient.
    """

    def __init__(
        self,
        task: Task,
        run: RunConfig,
        optimizer: OptimizerConfig,
        identity: Config,
        rests: bool = False,
    ) -> None:
        if run.threads:
            torch.set_num_threads(run.threads)
        self.task, self.run, self.config = task, run, optimizer
        self.out = Path(run.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            mixed_precision=run.precision,
            cpu=run.device == "cpu",
            log_with="tensorboard" if run.tensorboard else None,
            project_dir=str(self.out),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=rests)],
        )
        if run.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self.module = task.objective.to(self.accelerator.device)
        self.optimizer = build_optimizer(self.module, optimizer)
        self.model, self.stepper = self.accelerator.prepare(self.module, self.optimizer)
        self.ema = (
            AveragedWeights(self.module, optimizer.ema_decay) if optimizer.ema_decay else None
        )
        self.progress = Progress()
        self.fingerprint = _fingerprint(identity)
        self._resume()

    @property
    def state_path(self) -> Path:
        """The resumable state."""
        return self.out / "state.pt"

    def train(self) -> Progress:
        """Takes all remaining steps; checkpoints `last` and `best` lie in the run's folder.

        Ends early where `run.patience` scores in a row bring no new best.
        """
        if self._is_exhausted():
            return self.progress
        first, world = self.progress.step, self.accelerator.num_processes
        batches = self.task.batches(first, self.accelerator.process_index, world)
        self.model.train()
        window = _Window()
        for step, batch in zip(range(first, self.run.steps), batches, strict=True):
            began = time.perf_counter()
            window.add(self._step(step, batch))
            self.progress.step = step + 1
            self.progress.seconds += time.perf_counter() - began
            ended = self.progress.step == self.run.steps
            scored = ended or self.progress.step % self.run.score_every == 0
            if ended or self.progress.step % self.run.log_every == 0:
                self._log(window, step)
                window = _Window()
            if scored:
                self._score()
            stops = scored and self._is_exhausted()
            if ended or stops or self.progress.step % self.run.save_every == 0:
                self._save_state()
            if stops:
                break
        self.accelerator.end_training()
        return self.progress

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        rank = self.accelerator.process_index
        torch.manual_seed((self.run.seed * 1_000_003 + step) * 4099 + rank)
        set_learning_rate(self.optimizer, learning_rate(self.config, step, self.run.steps))
        batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        terms: dict[str, Tensor] = self.model(batch)
        self.accelerator.backward(terms["loss"])
        if self.config.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, step)
        return {name: value.detach() for name, value in terms.items()}

    def _log(self, window: _Window, step: int) -> None:
        terms = window.means()
        if not math.isfinite(terms["loss"]):
            raise FloatingPointError(
                f"step {step}: loss is {terms['loss']}; lower optimizer.learning_rate or set "
                f"optimizer.clip_norm"
            )
        if not self.accelerator.is_main_process:
            return
        rate = learning_rate(self.config, step, self.run.steps)
        pace = window.seconds_per_step()
        left = (self.run.steps - self.progress.step) * pace
        text = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        log.info(
            "step %d/%d  %s  rate %.2e  %.2f s/step  left %s",
            self.progress.step, self.run.steps, text, rate, pace, clock(left),
        )  # fmt: skip
        self._record({"step": self.progress.step, **terms, "rate": rate, "seconds_per_step": pace})

    def _record(self, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        numbers = {name: value for name, value in values.items() if name != "step"}
        self.accelerator.log(numbers, step=int(values["step"]))

    def _score(self) -> None:
        if self.accelerator.is_main_process:
            self.module.eval()
            last = self.out / "last.safetensors"
            with self.averaged():
                self.task.save(last, self.progress.step, {})
                scores = self.task.score(last)
                best = self.progress.best
                self.progress.stale += 1
                if best is None or scores["score"] > best:
                    self.progress.best, self.progress.stale = scores["score"], 0
                    self.task.save(self.out / "best.safetensors", self.progress.step, scores)
            self.module.train()
            text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            log.info("step %d  scores: %s", self.progress.step, text)
            self._record({"step": self.progress.step, **scores})
        self.accelerator.wait_for_everyone()
        stale = torch.tensor(self.progress.stale, device=self.accelerator.device)
        self.progress.stale = int(broadcast(stale))

    def _is_exhausted(self) -> bool:
        is_so = bool(self.run.patience) and self.progress.stale >= self.run.patience
        if is_so:
            log.info(
                "step %d: %d scores without a new best", self.progress.step, self.progress.stale
            )
        return is_so

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Lets the objective hold the weights that are scored and saved."""
        if self.ema is None:
            yield
            return
        with self.ema.swapped_in(self.module):
            yield

    def _save_state(self) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(self.progress),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.values if self.ema else {},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_path)  # noqa: PTH105  (one atomic rename)

    def _resume(self) -> None:
        if not self.state_path.exists():
            _forget_after(self.out / "metrics.jsonl", 0)
            return
        state: dict[str, Any] = torch.load(
            self.state_path, map_location=self.accelerator.device, weights_only=True
        )
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{self.state_path}: belongs to a run with other options; choose another "
                f"run.out, or remove the folder to start anew"
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.values = state["ema"]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        _forget_after(self.out / "metrics.jsonl", self.progress.step)
        log.info("resuming at step %d of %d", self.progress.step, self.run.steps)


class _Window:
    """Mean of the loss terms and the pace since the last log line."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.began = time.perf_counter()

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: float(value) / self.count for name, value in self.sums.items()}

    def seconds_per_step(self) -> float:
        return (time.perf_counter() - self.began) / self.count


def clock(seconds: float) -> str:
    """Duration as `1h02m` or `3m20s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


def _fingerprint(identity: Config) -> str:
    plain = to_plain(identity)
    plain["run"] = {k: v for k, v in plain.get("run", {}).items() if k not in _HARMLESS}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _forget_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
