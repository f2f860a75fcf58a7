"""Scenes kept per stream of frames, and refreshed when they are stale.

A third of the network's work depends on the scene as a whole: MA-CLIP, and what prompts and
refinement make of its embeddings (`Scene`). A scene outlives a frame, so a stream of frames may
reuse its `Scene`. It is stale after `refresh_every` frames or `max_age_ms`, when the picture has
changed, and at once when the stream is new, its modality is another or time went backwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import NS_PER_MS, Array
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.engines import EncodeScene, Poll
from segrgbx_core.runtime.options import SceneConfig

_MAX_STREAMS = 64
_THUMBNAIL = 32

Submit: TypeAlias = Callable[[EncodeScene, Batch], Poll]
"""Starts to encode a scene beside the frames: `CudaExecutor.submit`."""


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """One sample of a stream, as far as its scene's age is concerned.

    Attributes:
        stream: name of the stream.
        modality: of X.
        stamp_ns: of RGB, in ns.
        thumbnail: from `thumbnail`, or None where a changed picture does not count.
    """

    stream: str
    modality: Modality
    stamp_ns: int
    thumbnail: NDArray[np.float32] | None = None


@dataclass(eq=False)
class _Entry:
    """A stream's scene, the frame that it was encoded from and the number of frames since."""

    scene: Scene
    source: StreamFrame
    newest_ns: int
    age: int = 0
    pending: tuple[Poll, StreamFrame, int] | None = None  # the int counts frames since that one

    def settle(self) -> None:
        """Takes over a pending scene that is finished."""
        if self.pending is None:
            return
        poll, source, frames = self.pending
        scene = poll()
        if scene is not None:
            self.scene, self.source, self.age, self.pending = scene, source, frames, None


class SceneCache:
    """Scenes of streams. Not thread-safe.

    Args:
        config: when a scene is stale.
        encode_scene: encodes the scene of a batch.
        submit: encodes scenes beside the frames; None encodes them at once, and the frame waits.
            The first scene of a stream never goes this way.
    """

    def __init__(
        self, config: SceneConfig, encode_scene: EncodeScene, submit: Submit | None = None
    ) -> None:
        self._config = config
        self._encode_scene = encode_scene
        self._submit = submit if config.refresh_every > 1 else None
        self._entries: OrderedDict[tuple[str, Modality], _Entry] = OrderedDict()

    @property
    def uses_thumbnails(self) -> bool:
        """True where a changed picture makes a scene stale."""
        return self._config.refresh_every > 1 and self._config.change < 1

    def scenes_of(self, batch: Batch, frames: Sequence[StreamFrame]) -> tuple[Scene, list[int]]:
        """The scene of a batch: encoded anew for samples whose scene is stale, else the kept one.

        Args:
            batch: the samples.
            frames: one per sample.

        Returns:
            the scene and, per sample, how many frames of its stream it is old.
        """
        stale = [index for index, frame in enumerate(frames) if self._needs_scene(frame)]
        if len(stale) == len(frames):
            scene = self._encode_scene(batch)
            for frame, part in zip(frames, split_scene(scene, len(batch)), strict=True):
                self._keep(frame, part)
            return scene, [0] * len(frames)
        fresh: dict[int, Scene] = {}
        if stale:
            encoded = self._encode_scene(batch.select(stale))
            fresh = dict(zip(stale, split_scene(encoded, len(stale)), strict=True))
        parts, ages = [], []
        for index, frame in enumerate(frames):
            if index in fresh:
                self._keep(frame, fresh[index])
            entry = self._entries[frame.stream, frame.modality]
            parts.append(entry.scene)
            ages.append(entry.age)
            if index not in fresh:
                self._refresh_beside(entry, batch, index, frame)
        return join_scenes(parts), ages

    def clear(self) -> None:
        """Forgets all streams."""
        self._entries.clear()

    def _keep(self, frame: StreamFrame, scene: Scene) -> None:
        key = (frame.stream, frame.modality)
        self._entries[key] = _Entry(scene, frame, frame.stamp_ns)
        self._entries.move_to_end(key)
        while len(self._entries) > _MAX_STREAMS:
            self._entries.popitem(last=False)

    def _needs_scene(self, frame: StreamFrame) -> bool:
        """Counts the frame; True where its scene must be encoded before it."""
        entry = self._entries.get((frame.stream, frame.modality))
        if entry is None or frame.stamp_ns < entry.newest_ns:
            return True
        entry.newest_ns = frame.stamp_ns
        entry.age += 1
        if entry.pending is not None:
            poll, source, frames = entry.pending
            entry.pending = (poll, source, frames + 1)
        entry.settle()
        return self._submit is None and self._is_stale(entry, frame)

    def _is_stale(self, entry: _Entry, frame: StreamFrame) -> bool:
        config, source = self._config, entry.source
        return (
            entry.age >= config.refresh_every
            or frame.stamp_ns - source.stamp_ns > config.max_age_ms * NS_PER_MS
            or _changed(source.thumbnail, frame.thumbnail, config.change)
        )

    def _refresh_beside(self, entry: _Entry, batch: Batch, index: int, frame: StreamFrame) -> None:
        """Starts to encode a scene for later frames where it is stale and none is pending."""
        if self._submit is not None and entry.pending is None and self._is_stale(entry, frame):
            poll = self._submit(self._encode_scene, batch.select([index]))
            entry.pending = (poll, frame, 0)


def split_scene(scene: Scene, count: int) -> list[Scene]:
    """The scenes of a batch's `count` samples, each as if of a batch of one."""
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
