"""One loop for every stage: step, precision, averaging, log, save, score, resume.

A run is resumed exactly: the order of samples and every random number of step n are functions of
the seed and of n, so the state on disk is weights, optimizer, averaged weights and the step.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import broadcast
from torch import Tensor, distributed, nn

from segrgbx_core.base.config import Config, to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError, SegrgbxError, shortened
from segrgbx_core.base.images import write_image
from segrgbx_core.labels.overlay import Picture
from training.engine.batch_norm import BatchNormMode, set_training, share_statistics
from training.engine.config import RunConfig
from training.engine.run import (
    STATE,
    append_line,
    forget_after,
    read_state,
    remove_leftovers,
    require_same_run,
    write_config,
    write_state,
)
from training.engine.schedule import (
    OptimizerConfig,
    build_optimizer,
    ema_factor,
    learning_rate,
    set_learning_rate,
)

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class TrainingDivergedError(SegrgbxError):
    """Loss or weights are no longer finite."""


class Task(Protocol):
    """What a stage gives to the loop.

    Attributes:
        objective: trained module; its `forward(batch)` returns scalars, among them `loss`.
        samples: what each training split holds, in words, by the name of its option; a run is
            resumed with the same only.
    """

    objective: nn.Module
    samples: Mapping[str, str]

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on, until the run ends."""
        ...

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes a checkpoint with the objective's present weights."""
        ...

    def score(self, path: Path) -> dict[str, float]:
        """Scores a checkpoint; `score` decides which one is the best."""
        ...


@runtime_checkable
class DrawingTask(Protocol):
    """A task that can show its answers."""

    def draw(self, path: Path) -> dict[str, Picture]:
        """Pictures of a checkpoint's answers by name."""
        ...


@runtime_checkable
class DivisibleObjective(Protocol):
    """An objective whose loss is a mean over things that parts of a batch hold in other numbers.

    The loop gives the parts of a step, on several devices or one after the other, an entry
    `share`: what each term of the part's loss counts, so that their mean is that of the whole.
    """

    def weigh(self, batch: Batch) -> Tensor:
        """Weight of a batch in each of its loss's terms, float64 (terms,)."""
        ...


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
        identity: the whole run; it resumes only with the same options, as far as they affect the
            result.
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
        state = PartialState(cpu=run.device == "cpu")
        if run.precision == "fp16" and state.device.type == "cpu":
            raise ConfigError("run.precision: fp16 needs a GPU; use bf16 or no")
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
        _require_divisible(run, self.module, self.accelerator.num_processes)
        if run.batch_norm is BatchNormMode.SHARED:
            share_statistics(self.module)
        self.optimizer = build_optimizer(self.module, optimizer)
        self.model, self.stepper = self.accelerator.prepare(self.module, self.optimizer)
        self.ema = (
            AveragedWeights(self.module, optimizer.ema_decay) if optimizer.ema_decay else None
        )
        self.progress = Progress()
        self._saved = 0
        self.identity = identity
        self._resume()
        if self.accelerator.is_main_process:
            write_config(self.out, identity)

    @property
    def state_path(self) -> Path:
        """The resumable state."""
        return self.out / STATE

    def train(self) -> Progress:
        """Takes all remaining steps; checkpoints `last` and `best` lie in the run's folder.

        Ends early where `run.patience` scores in a row bring no new best.
        """
        if self._is_exhausted():
            return self.progress
        first, world = self.progress.step, self.accelerator.num_processes
        batches = self.task.batches(first, self.accelerator.process_index, world)
        set_training(self.model, self.run.batch_norm)
        window = _Window()
        for step, batch in zip(range(first, self.run.steps), batches, strict=True):
            began = time.perf_counter()
            window.add(self._step(step, batch))
            self.progress.step = step + 1
            self.progress.seconds += time.perf_counter() - began
            ended = self.progress.step == self.run.steps
            scored = ended or self.progress.step % self.run.score_every == 0
            saved = ended or self.progress.step % self.run.save_every == 0
            if ended or self.progress.step % self.run.log_every == 0:
                self._log(window, step)
                window = _Window()
            if scored or saved:
                self._require_finite(window.means())
            if scored:
                self._score()
            stops = scored and self._is_exhausted()
            if saved or stops:
                self._save_state()
            if stops:
                break
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return self.progress

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        set_learning_rate(self.optimizer, learning_rate(self.config, step, self.run.steps))
        parts = self._parts(batch)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            # A part draws the same random numbers wherever it is taken, here or on device `place`.
            place = rank + world * number
            torch.manual_seed((self.run.seed * 1_000_003 + step) * 4099 + place)
            is_last = number == len(parts) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                terms: dict[str, Tensor] = self.model(part)
                self.accelerator.backward(terms["loss"])
            for name, value in terms.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        if self.config.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, step)
        return sums

    def _parts(self, batch: Batch) -> list[Batch]:
        """What this device takes at once, one after the other, each with its share of the step."""
        count, world = self.run.accumulate, self.accelerator.num_processes
        batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        parts = [{name: value[k::count] for name, value in batch.items()} for k in range(count)]
        if count * world > 1 and isinstance(self.module, DivisibleObjective):
            weights = torch.stack([self.module.weigh(part) for part in parts])  # (parts, terms)
            total: Tensor = self.accelerator.reduce(weights.sum(dim=0), "sum")
            for part, own in zip(parts, weights, strict=True):
                # DDP takes the mean over devices; this makes it the sum.
                part["share"] = (own * world / total.clamp(min=1e-6)).float()
        return parts

    def _log(self, window: _Window, step: int) -> None:
        terms = self._mean_over_devices(window.means())
        if not math.isfinite(terms["loss"]):
            raise self._diverged(f"the loss is {terms['loss']}")
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

    def _require_finite(self, terms: Mapping[str, float]) -> None:
        """Looks for what must not be saved: the last good state and checkpoints stay."""
        is_finite = all(map(math.isfinite, terms.values()))
        broken = [] if is_finite else ["the loss"]
        broken += [f"'{name}'" for name, value in _trained(self.module) if not _is_finite(value)]
        count = torch.tensor(float(len(broken)), device=self.accelerator.device)
        if float(self.accelerator.reduce(count, "sum")):  # a rank alone must not go on and wait
            raise self._diverged(f"{broken[0] if broken else 'a weight'} is not finite")

    def _diverged(self, what: str) -> TrainingDivergedError:
        saved = "no state was saved before"
        if self.state_path.exists():
            saved = f"{self.state_path} keeps the last finite one, of step {self._saved}"
        rate, limit = self.config.learning_rate, self.config.clip_norm
        return TrainingDivergedError(
            f"step {self.progress.step}: {what}; {saved}. Start in another run.out with a lower "
            f"optimizer.learning_rate (was {rate:g}) or another optimizer.clip_norm (was "
            f"{limit:g}{'' if limit else ', no limit'})"
        )

    def _mean_over_devices(self, terms: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return terms
        values = torch.tensor(list(terms.values()), device=self.accelerator.device)
        means: Tensor = self.accelerator.reduce(values, "mean")
        return dict(zip(terms, means.tolist(), strict=True))

    def _record(self, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        append_line(self.out / "metrics.jsonl", json.dumps(values))
        numbers = {name: value for name, value in values.items() if name != "step"}
        self.accelerator.log(numbers, step=int(values["step"]))

    def _score(self) -> None:
        if self.accelerator.is_main_process:
            self.module.eval()
            last = self.out / "last.safetensors"
            with self.averaged():
                self.task.save(last, self.progress.step, {})
                scores = self.task.score(last)
                self._draw(last)
                best = self.progress.best
                self.progress.stale += 1
                if best is None or math.isnan(best) or scores["score"] > best:
                    self.progress.best, self.progress.stale = scores["score"], 0
                    self.task.save(self.out / "best.safetensors", self.progress.step, scores)
            set_training(self.module, self.run.batch_norm)
            text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            log.info("step %d  scores: %s", self.progress.step, text)
            self._record({"step": self.progress.step, **scores})
        self.accelerator.wait_for_everyone()
        stale = torch.tensor(self.progress.stale, device=self.accelerator.device)
        self.progress.stale = int(broadcast(stale))

    def _draw(self, path: Path) -> None:
        if not (self.run.pictures and isinstance(self.task, DrawingTask)):
            return
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        for name, picture in self.task.draw(path).items():
            write_image(folder / f"{name}_{self.progress.step:07d}.png", picture)
            if self.run.tensorboard:
                tracker = self.accelerator.get_tracker("tensorboard")
                images = {name: picture[None]}
                tracker.log_images(images, self.progress.step, dataformats="NHWC")

    def _is_exhausted(self) -> bool:
        is_so = bool(self.run.patience) and self.progress.stale >= self.run.patience
        if is_so:
            log.info(
                "step %d: %d scores without a new best", self.progress.step, self.progress.stale
            )
        return is_so

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The objective holds the weights that are scored and saved while the block runs."""
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
            "options": to_plain(self.identity),
            "samples": dict(self.task.samples),
            "progress": vars(self.progress),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.values if self.ema else {},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        write_state(self.state_path, state)
        self._saved = self.progress.step

    def _resume(self) -> None:
        if self.accelerator.is_main_process:
            remove_leftovers(self.out)
        if not self.state_path.exists():
            self._forget(0)
            return
        state = read_state(self.state_path)
        require_same_run(self.state_path, state, self.identity, self.task.samples)
        try:
            self._restore(state)
        except SegrgbxError:
            raise
        except Exception as error:  # whatever values of another form lead to
            raise self._unfit(f"{type(error).__name__}: {error}") from None
        broken = [name for name, value in _trained(self.module) if not _is_finite(value)]
        if broken:
            raise CheckpointError(
                f"{self.state_path}: '{broken[0]}' is not finite, the run had diverged; start in "
                "another run.out with a lower optimizer.learning_rate"
            )
        self._saved = self.progress.step
        self._forget(self.progress.step)
        log.info("resuming at step %d of %d", self.progress.step, self.run.steps)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.progress = _progress(state["progress"], self.run.steps)
        self._require_fit(self.module.state_dict(), state["module"])
        self.module.load_state_dict(state["module"])
        self._require_fit(self.ema.values if self.ema else {}, state["ema"])
        if self.ema is not None:
            for name, value in self.ema.values.items():
                value.copy_(state["ema"][name])
        groups = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        if groups != [len(group["params"]) for group in self.optimizer.param_groups]:
            # Earlier versions let prompts decay, so their groups differ.
            raise CheckpointError(
                f"{self.state_path}: was written by a version that decays other weights; resume "
                "with that version, or choose another run.out"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():
            moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter)
            self._require_fit({"step": torch.tensor(0.0), **moments}, values)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _require_fit(self, own: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
        for name in {**own, **given}:
            one, other = own.get(name), given.get(name)
            if one is None or not isinstance(other, Tensor) or one.shape != other.shape:
                raise self._unfit(f"first at '{name}'")

    def _unfit(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.state_path}: does not fit the run's model ({shortened(reason)}); put the "
            "run's own there, or remove it to start anew, from the beginning"
        )

    def _forget(self, step: int) -> None:
        if self.accelerator.is_main_process:
            forget_after(self.out / "metrics.jsonl", step)


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
        """The module holds the average while the block runs."""
        own = {name: value.detach().clone() for name, value in _trained(module)}
        _load(module, self.values)
        try:
            yield
        finally:
            _load(module, own)


def _trained(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from (item for item in module.named_parameters() if item[1].requires_grad)
    yield from (item for item in module.named_buffers() if "running_" in item[0])


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


@torch.no_grad()
def _load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in _trained(module):
        value.copy_(values[name])


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
        return {name: float(value) / max(1, self.count) for name, value in self.sums.items()}

    def seconds_per_step(self) -> float:
        return (time.perf_counter() - self.began) / self.count


def leave_processes() -> None:
    """Ends this process's part in a run of several; the last thing that a command does."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def clock(seconds: float) -> str:
    """Duration as `1h02m` or `3m20s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


def _progress(values: Mapping[str, Any], steps: int) -> Progress:
    if values.keys() != vars(Progress()).keys():
        raise ValueError(f"progress {', '.join(map(str, values))}")
    progress = Progress(**values)
    if not (isinstance(progress.step, int) and 0 <= progress.step <= steps):
        raise ValueError(f"step {progress.step} of {steps}")
    if not isinstance(progress.stale, int) or not isinstance(progress.seconds, (int, float)):
        raise TypeError(f"progress {values}")
    if not (progress.best is None or isinstance(progress.best, (int, float))):
        raise TypeError(f"best score {progress.best}")
    return progress


def _require_divisible(run: RunConfig, module: nn.Module, world: int) -> None:
    parts = world * run.accumulate
    if run.batch_size % parts:
        raise ConfigError(
            f"run.batch_size: {run.batch_size} does not divide into {parts} equal parts: "
            f"{world} devices, {run.accumulate} parts on each"
        )
    if run.accumulate > 1 and not isinstance(module, DivisibleObjective):
        raise ConfigError("run.accumulate: this stage's loss needs the whole batch at once; set 1")
