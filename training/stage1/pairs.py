"""RGB-X pairs with their captions, as stage 1 draws them, and RGB alone for its small CLIP.

Legend: S side of the tower's input, E embedding width, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.utils.data import Dataset

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.model.ma_clip import prepare_images
from segrgbx_core.sensors import resamples_linearly
from training.data.augment import AugmentConfig, Views, fitted, mirror, photometry
from training.data.datasets import Labelled, Reader
from training.data.mixing import DrawPlan, Sampling, plan_draws, shares
from training.data.preparation import Preparation, prepare
from training.stage1.captions import Caption, caption_id, sample_ids
from training.stage1.config import Batching, ClipRun, MaClipRun, PairRun, ViewConfig
from training.stage1.scene_captions import describe, mirrored


@dataclass(frozen=True, eq=False)
class CaptionedSplit:
    """One split of a data set with the caption of every sample.

    Attributes:
        reader: the split.
        captions: int64 (N,), caption ids.
        mirrored: int64 (N,), ids of the captions of the mirrored images.
        texts: the caption of each id.
    """

    reader: Reader
    captions: Tensor
    mirrored: Tensor
    texts: Mapping[int, str]


def captioned(reader: Reader, captions: Mapping[str, Caption], where: str) -> CaptionedSplit:
    """Joins a split with its captions.

    Raises:
        DataError: when a sample has none, or an empty one.
    """
    ids = sample_ids(reader)
    missing = [sample for sample in ids if sample not in captions]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(ids)} samples have no caption, first "
            f"'{missing[0]}'; write captions with `python -m training.captions RUN`"
        )
    empty = [sample for sample in ids if not captions[sample].text.strip()]
    if empty:
        raise DataError(f"{where}: {len(empty)} captions are empty, first of '{empty[0]}'")
    plain = [captions[sample].text for sample in ids]
    texts: dict[int, str] = {}
    columns = []
    for column in ([mirrored(text) for text in plain], plain):
        keys = [caption_id(text) for text in column]
        texts.update(zip(keys, column, strict=True))
        columns.append(torch.tensor(keys, dtype=torch.int64))
    return CaptionedSplit(reader, captions=columns[1], mirrored=columns[0], texts=texts)


def plan_pairs(readers: Sequence[Reader], run: MaClipRun) -> DrawPlan:
    """Plans a run of stage 1: which pair is drawn when.

    By modality, every step holds one modality; `run.sampling` says how often each has its turn.
    Within a modality data sets are drawn by their stated shares, else by size. Mixed, every step
    holds all data sets by their shares.

    Raises:
        ConfigError: when a data set is empty or the stated shares do not fit.
    """
    if run.batching is Batching.MIXED:
        return plan_mixed(readers, run)
    members = {
        modality: [k for k, reader in enumerate(readers) if reader.modality is modality]
        for modality in modalities_of(readers)
    }
    sizes = {str(m): sum(len(readers[k]) for k in group) for m, group in members.items()}
    turns = plan_draws(
        [1] * len(members),
        list(shares(sizes, {}, run.run.sampling).values()),
        run.run.steps,
        run.run.seed,
    ).source  # which modality each step belongs to
    batch = run.run.batch_size
    columns = {name: np.zeros(run.run.steps * batch, np.int32) for name in _COLUMNS}
    for number, group in enumerate(members.values()):
        steps = np.flatnonzero(turns == number)
        plan = _plan(readers, group, run, (len(steps) * batch, number + 1, Sampling.PROPORTIONAL))
        places = (steps[:, None] * batch + np.arange(batch)).ravel()
        for name, column in columns.items():
            column[places] = getattr(plan, name)
    return DrawPlan(**columns, seed=run.run.seed)


def plan_mixed(readers: Sequence[Reader], run: PairRun) -> DrawPlan:
    """Plans a run whose every step holds all data sets by their shares."""
    everyone = list(range(len(readers)))
    total = run.run.steps * run.run.batch_size
    return _plan(readers, everyone, run, (total, 0, run.run.sampling))


_COLUMNS = ("source", "index", "epoch")


def _plan(
    readers: Sequence[Reader],
    group: Sequence[int],
    run: PairRun,
    draws: tuple[int, int, Sampling],
) -> DrawPlan:
    total, stream, sampling = draws
    sizes = {str(k): len(readers[k]) for k in group}
    stated = {str(k): run.data[k].share for k in group}
    weights = list(shares(sizes, stated, sampling).values())
    plan = plan_draws(list(sizes.values()), weights, total, run.run.seed + 7919 * stream)
    source = np.asarray(group, np.int32)[plan.source]
    return DrawPlan(source, plan.index, plan.epoch, run.run.seed)


def modalities_of(readers: Sequence[Reader]) -> tuple[Modality, ...]:
    """Modalities of data sets, each once, in order."""
    return tuple(dict.fromkeys(reader.modality for reader in readers))


def require_divisible(batch_size: int, world: int) -> None:
    """Refuses batches that do not spread evenly over processes.

    Raises:
        ConfigError: when a process would get fewer pairs than another.
    """
    if batch_size % world:
        raise ConfigError(
            f"run.batch_size: {batch_size} pairs do not spread evenly over {world} processes"
        )


class PairDataset(Dataset[dict[str, Tensor]]):
    """Training pairs by their number in the plan.

    An item holds `rgb` and `x` float32 (3, S, S) in [0, 1], `modality` and `caption` int64, and
    `text` float32 (E,), the caption's embedding. A mirrored pair has the mirrored image's caption.
    """

    def __init__(
        self,
        splits: Sequence[CaptionedSplit],
        texts: Mapping[int, Tensor],
        plan: DrawPlan,
        preparation: Preparation,
        run: MaClipRun,
    ) -> None:
        """Joins the parts.

        Args:
            splits: training splits.
            texts: embedding (E,) of each caption id.
            plan: order of the run.
            preparation: how X images are made.
            run: views and sizes.
        """
        self.splits, self.texts, self.plan = tuple(splits), texts, plan
        self.preparation, self.run = preparation, run
        self._frames: dict[tuple[int, int], Views] = {}

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        position, index = int(self.plan.source[draw]), int(self.plan.index[draw])
        split = self.splits[position]
        frame = self._frame(position, index)
        rng = self.plan.rng(draw)
        side = self.run.ma_clip.image_size
        view, is_mirrored = pair_view(frame, self.run.views, side, self.preparation, rng)
        caption = (split.mirrored if is_mirrored else split.captions)[index]
        return {
            "rgb": view.rgb,
            "x": view.x.contiguous(),
            "modality": torch.tensor(view.modality.index),
            "caption": caption,
            "text": self.texts[int(caption)],
        }

    def _frame(self, position: int, index: int) -> Views:
        frame = self._frames.get((position, index))
        if frame is None:
            whole = prepare(self.splits[position].reader, index, self.preparation)
            size = (self.run.input.height, self.run.input.width)
            linear = resamples_linearly(whole.modality, self.preparation.encoding)
            frame = Views(
                rgb=fitted(whole.rgb, size, True),
                x=fitted(whole.x, size, linear),
                labels=torch.zeros((1, 1), dtype=torch.uint8),
                modality=whole.modality,
            )
            if self.preparation.keeps_frames:
                self._frames[position, index] = frame
        return frame


@dataclass(frozen=True)
class Crop:
    """A random part of a frame.

    Attributes:
        top: first row, relative to the frame's height.
        left: first column, relative to its width.
        scale: side relative to the frame's.
        is_mirrored: left and right swapped.
    """

    top: float
    left: float
    scale: float
    is_mirrored: bool

    def of(self, image: Tensor) -> Tensor:
        """That part of (..., H, W), not mirrored."""
        height, width = image.shape[-2:]
        rows, columns = max(1, round(height * self.scale)), max(1, round(width * self.scale))
        top, left = round(self.top * height), round(self.left * width)
        top, left = min(top, height - rows), min(left, width - columns)
        return image[..., top : top + rows, left : left + columns]


def draw_crop(size: tuple[int, int], config: ViewConfig, rng: np.random.Generator) -> Crop:
    """Draws part and mirroring of a frame of that height and width."""
    height, width = size
    scale = rng.uniform(config.smallest_crop, 1.0)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(rng.integers(0, height - rows + 1))
    left = int(rng.integers(0, width - columns + 1))
    return Crop(top / height, left / width, scale, bool(rng.random() < config.flip))


def pair_view(
    frame: Views, config: ViewConfig, side: int, preparation: Preparation, rng: np.random.Generator
) -> tuple[Views, bool]:
    """One random view of a whole frame, RGB and X alike, on the tower's square; is it mirrored.

    Args:
        frame: RGB and X, float32 (3, H, W) in [0, 1].
        config: probabilities and ranges.
        side: S.
        preparation: what X's channels mean, for mirroring.
        rng: random generator.
    """
    height, width = frame.rgb.shape[-2:]
    crop = draw_crop((height, width), config, rng)
    rgb, x = (_squared(crop.of(image), side) for image in (frame.rgb, frame.x))
    view = Views(photometry(rgb, _colours(config), rng), x, frame.labels, frame.modality)
    if crop.is_mirrored:
        view = mirror(view, preparation.encoding)
    return view, crop.is_mirrored


def _colours(config: ViewConfig) -> AugmentConfig:
    return AugmentConfig(
        jitter=config.jitter,
        jitter_strength=config.jitter_strength,
        blur=config.blur,
        noise=config.noise,
    )


class RgbCaptions(Dataset[dict[str, Tensor]]):
    """Training views of RGB with their captions, by their number in the plan; X is not read.

    An item holds `rgb` float32 (3, S, S) in [0, 1], `text` int64 (L,), tokens, and `caption`
    int64. Frames stay in memory where the run says so.

    Args:
        splits: training splits.
        plan: order of the run.
        space: unified classes.
        run: views, sizes, and where captions come from.
    """

    def __init__(
        self, splits: Sequence[CaptionedSplit], plan: DrawPlan, space: LabelSpace, run: ClipRun
    ) -> None:
        self.splits, self.plan, self.space, self.run = tuple(splits), plan, space, run
        self._frames: dict[tuple[int, int], Labelled] = {}
        self._tokenizer = SimpleTokenizer()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        position, index = int(self.plan.source[draw]), int(self.plan.index[draw])
        item = self._frame(position, index)
        rng = self.plan.rng(draw)
        views, size = self.run.views, self.run.input
        rgb = torch.from_numpy(item.sample.rgb).permute(2, 0, 1)
        rgb = fitted(rgb, (size.height, size.width), True)
        crop = draw_crop((size.height, size.width), views, rng)
        rgb = photometry(_squared(crop.of(rgb), self.run.ma_clip.image_size), _colours(views), rng)
        text = self._text(position, index, crop)
        tokens = self._tokenizer(
            [self._shortened(text, rng)], context_length=self.run.text_tower.context
        )[0]
        return {
            "rgb": rgb.flip(-1) if crop.is_mirrored else rgb,
            "text": tokens,
            "caption": torch.tensor(caption_id(text)),
        }

    def _text(self, position: int, index: int, crop: Crop) -> str:
        split = self.splits[position]
        if not self.run.view_captions:
            text = split.texts[int(split.captions[index])]
            return mirrored(text) if crop.is_mirrored else text
        item = self._frame(position, index)
        labels = crop.of(torch.from_numpy(item.labels)).numpy()
        labels = np.ascontiguousarray(labels[:, ::-1] if crop.is_mirrored else labels)
        native = self.space.native(split.reader.native)
        names = [self.space.names[place] for place in native.to_unified]
        return describe(labels, names, item.facts, item.groups)

    def _shortened(self, text: str, rng: np.random.Generator) -> str:
        if self.run.phrase_drop <= 0:
            return text
        first, *others = text.split(", ")
        kept = rng.random(len(others)) >= self.run.phrase_drop
        return ", ".join([first, *(others[k] for k in np.flatnonzero(kept))])

    def _frame(self, position: int, index: int) -> Labelled:
        item = self._frames.get((position, index))
        if item is None:
            item = self.splits[position].reader[index]
            if self.run.run.keep_frames:
                sample = replace(item.sample, x=np.zeros((1, 1, 3), np.uint8))
                item = replace(item, sample=sample)
                self._frames[position, index] = item
        return item


_ZERO, _ONE = torch.zeros(1), torch.ones(1)


def _squared(image: Tensor, side: int) -> Tensor:
    return prepare_images(image[None], side, _ZERO, _ONE)[0]
