"""What MA-CLIP made of the scene, kept per stream and renewed when it is due.

A third of the network's work looks at the scene as a whole: MA-CLIP, and what prompts and
refinement make of its embeddings (`Scene`). A scene outlives a frame, so a stream of frames may
keep its `Scene` for some of them. A look is due after `refresh_every` frames or `max_age_ms`, when
the picture has changed, and at once when the stream is new, its modality is another or time went
backwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import NS_PER_MS, Array
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.options import SceneConfig

_MAX_STREAMS = 64
_THUMBNAIL = 32

Encode = Callable[[Batch], Scene]


@dataclass(frozen=True, eq=False)
class Look:
    """One sample as the cache sees it.

    Attributes:
        stream: where it comes from.
        modality: of X.
        stamp_ns: of RGB, in ns.
        thumbnail: from `thumbnail`, or None where change does not matter.
    """

    stream: str
    modality: Modality
    stamp_ns: int
    thumbnail: NDArray[np.float32] | None = None


class Pending(Protocol):
    """A scene that is being made."""

    def ready(self) -> Scene | None:
        """The scene, or None while it is not finished; never waits."""
        ...


class Lane(Protocol):
    """Makes scenes beside the frames, such as a CUDA side stream."""

    def start(self, encode: Encode, batch: Batch) -> Pending:
        """Begins and returns at once."""
        ...


@dataclass(eq=False)
class _Entry:
    """A stream's scene, the look that it came from and the frames since."""

    scene: Scene
    look: Look
    newest_ns: int
    age: int = 0
    pending: tuple[Pending, Look, int] | None = None  # the int counts frames since that look

    def settle(self) -> None:
        """Takes over a scene that has become ready."""
        if self.pending is None:
            return
        pending, look, frames = self.pending
        scene = pending.ready()
        if scene is not None:
            self.scene, self.look, self.age, self.pending = scene, look, frames, None


class SceneCache:
    """Scenes of streams. One thread at a time.

    Args:
        config: when a look is due.
        encode: makes the scene of a batch.
        lane: makes scenes beside the frames; None makes them when they are due, and the frame
            waits. First looks are never left to the lane.
    """

    def __init__(self, config: SceneConfig, encode: Encode, lane: Lane | None = None) -> None:
        self._config = config
        self._encode = encode
        self._lane = lane if config.refresh_every > 1 else None
        self._entries: OrderedDict[tuple[str, Modality], _Entry] = OrderedDict()

    @property
    def wants_thumbnails(self) -> bool:
        """True where a change of the picture can make a look due."""
        return self._config.refresh_every > 1 and self._config.change < 1

    def scenes(self, batch: Batch, looks: Sequence[Look]) -> tuple[Scene, list[int]]:
        """The scene of a batch, from new looks for samples that are due and kept ones for others.

        Args:
            batch: the samples.
            looks: one per sample.

        Returns:
            the scene of the whole batch, and for every sample the frames of its stream since the
            look, 0 for a new one.
        """
        due = [index for index, look in enumerate(looks) if self._is_due(look)]
        if len(due) == len(looks):
            scene = self._encode(batch)
            for look, part in zip(looks, split_scene(scene, len(batch)), strict=True):
                self._keep(look, part)
            return scene, [0] * len(looks)
        new: dict[int, Scene] = {}
        if due:
            new = dict(
                zip(due, split_scene(self._encode(batch.select(due)), len(due)), strict=True)
            )
        parts, ages = [], []
        for index, look in enumerate(looks):
            if index in new:
                self._keep(look, new[index])
            entry = self._entries[look.stream, look.modality]
            parts.append(entry.scene)
            ages.append(entry.age)
            if index not in new:
                self._look_beside(entry, batch, index, look)
        return join_scenes(parts), ages

    def clear(self) -> None:
        """Forgets all streams."""
        self._entries.clear()

    def _keep(self, look: Look, scene: Scene) -> None:
        key = (look.stream, look.modality)
        self._entries[key] = _Entry(scene, look, look.stamp_ns)
        self._entries.move_to_end(key)
        while len(self._entries) > _MAX_STREAMS:
            self._entries.popitem(last=False)

    def _is_due(self, look: Look) -> bool:
        """Counts the frame; True where it cannot go without a look of its own."""
        entry = self._entries.get((look.stream, look.modality))
        if entry is None or look.stamp_ns < entry.newest_ns:
            return True
        entry.newest_ns = look.stamp_ns
        entry.age += 1
        if entry.pending is not None:
            pending, pending_look, frames = entry.pending
            entry.pending = (pending, pending_look, frames + 1)
        entry.settle()
        return self._lane is None and self._is_stale(entry, look)

    def _is_stale(self, entry: _Entry, look: Look) -> bool:
        config, before = self._config, entry.look
        return (
            entry.age >= config.refresh_every
            or look.stamp_ns - before.stamp_ns > config.max_age_ms * NS_PER_MS
            or _changed(before.thumbnail, look.thumbnail, config.change)
        )

    def _look_beside(self, entry: _Entry, batch: Batch, index: int, look: Look) -> None:
        """Starts a look for later frames where one is due and none is under way."""
        if self._lane is not None and entry.pending is None and self._is_stale(entry, look):
            pending = self._lane.start(self._encode, batch.select([index]))
            entry.pending = (pending, look, 0)


def split_scene(scene: Scene, count: int) -> list[Scene]:
    """The scenes of a batch's `count` samples, each as of a batch of one."""
    kv = [
        torch.unflatten(part, 1, (2, -1)).unbind(2) for part in scene.prompt_kv
    ]  # (blocks, 2, K, 2D_i)
    queries = [
        torch.unflatten(part, 0, (2, -1)).unbind(1) for part in scene.queries
    ]  # (2, D_4, h, w)
    return [
        Scene(tuple(part[index] for part in kv), tuple(part[index] for part in queries))
        for index in range(count)
    ]


def join_scenes(scenes: Sequence[Scene]) -> Scene:
    """The scene of a batch from those of its samples: all RGB, then all X."""
    if len(scenes) == 1:
        return scenes[0]
    kv = zip(*(scene.prompt_kv for scene in scenes), strict=True)
    queries = zip(*(scene.queries for scene in scenes), strict=True)
    return Scene(
        tuple(torch.stack(parts, dim=2).flatten(1, 2) for parts in kv),  # (blocks, 2B, K, 2D_i)
        tuple(torch.stack(parts, dim=1).flatten(0, 1) for parts in queries),  # (2B, D_4, h, w)
    )


def thumbnail(rgb: NDArray[np.uint8], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB and X images of any sizes in small, float32 (2, 32, 32, 3) in [0, 1]."""
    return np.stack([_small(rgb) / 255, _small(x)]).astype(np.float32)


def _small(image: Array) -> Array:
    # Every fourth pixel or so of each cell is enough to notice another scene.
    step = max(1, min(image.shape[:2]) // (4 * _THUMBNAIL))
    sparse = np.ascontiguousarray(image[::step, ::step])
    return cv2.resize(sparse, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)


def _changed(
    before: NDArray[np.float32] | None, now: NDArray[np.float32] | None, limit: float
) -> bool:
    if before is None or now is None:
        return False
    return bool(np.abs(now - before).mean(axis=(1, 2, 3)).max() > limit)
