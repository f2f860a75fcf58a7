"""Draws the pictures of the demo for the front page: five sensors in rows, one drive as a clip.

python docs/tools/draw_demo.py        writes docs/images/five_sensors.jpg and docs/images/demo.webp
python docs/tools/draw_demo.py clip   the second alone, from the shipped recording

Every picture is a replay of the demo's recordings with the shipped checkpoint; those that are not
shipped are rendered into demo_out/recordings first, as `make demo MODALITY=all` does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrgbx_core.base.errors import SegrgbxError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.overlay import Picture, blend, contact_sheet, present_ids, preview
from segrgbx_ros.config.node import read_node_yaml
from segrgbx_ros.load_model import load_segmenter
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.evaluation import evaluate
from segrgbx_ros.replay.ground_truth import recorded_ground_truth
from segrgbx_ros.replay.topic_routes import find_routes
from segrgbx_ros.replay.writers import SegmentedFrame, SheetRow, sheet
from segrgbx_ros.tools.demo import CHECKPOINT, NOTE, ROOT, demo_recording

IMAGES = ROOT / "docs" / "images"
SHOWN = {
    Modality.EVENT: 20,
    Modality.THERMAL: 60,
    Modality.DEPTH: 8,
    Modality.POLARIZATION: 12,
    Modality.LIGHT_FIELD: 20,
}
"""Number of the frame that stands for a recording."""
CLIP, CELL_WIDTH, CLIP_MS, CLIP_STEP = Modality.THERMAL, 416, 100, 2
TARGET = 210
"""Level that a brightened image's brightest pixels get."""


@dataclass
class _Frames:
    """Keeps the frames of a replay."""

    frames: list[SegmentedFrame] = field(default_factory=list)

    def on_frame(self, frame: SegmentedFrame) -> None:
        """Keeps it."""
        self.frames.append(frame)


def replayed(modality: Modality) -> tuple[list[SegmentedFrame], Any]:
    """All frames of a modality's recording as segmented, and the published classes."""
    file, kept = ROOT / "config" / f"{modality}.yaml", _Frames()
    with Bag(demo_recording(modality, ROOT / "demo_out")) as bag:
        config = read_node_yaml(file, {"model.checkpoint": str(CHECKPOINT)})
        routes = find_routes(bag, config, [modality])
        truth = recorded_ground_truth(bag, routes, modality)
        assert truth is not None
        segmenter = load_segmenter(config)
        truths = {modality.value: truth}
        evaluate(bag, config, segmenter, routes, truths, [kept])
    return kept.frames, segmenter.classes


def draw_sensors(
    replays: Mapping[Modality, list[SegmentedFrame]], classes: Any, path: Path
) -> None:
    """One row per sensor: RGB, X, truth, prediction."""
    rows, captions = [], []
    for modality, frames in replays.items():
        frame = frames[SHOWN[modality]]
        answer = frame.prediction
        gain = display_gain([frame.sample.rgb])
        rgb = brightened(frame.sample.rgb, gain)
        rows.append(SheetRow(rgb, answer.x_image, answer.labels, frame.truth))
        dark = "" if gain == 1 else f", RGB brightened {gain:g} times for display"
        captions.append(f"{modality.facts.title}{dark}")
    picture = sheet(rows, captions, classes, "One model, five complementary sensors", NOTE)
    write_image(path, picture, quality=82)


def draw_clip(frames: list[SegmentedFrame], classes: Any, path: Path) -> None:
    """RGB, X and the overlay side by side, captioned, with a legend, as an animation."""
    palette, shots = classes.palette_array(), []
    gain = display_gain([frame.sample.rgb for frame in frames])
    shown = present_ids(*(frame.prediction.labels for frame in frames))
    rgb_title = "RGB" if gain == 1 else f"RGB, brightened {gain:g} times for display"
    titles = [rgb_title, f"{CLIP.facts.title}, as the model sees it", "mask over RGB"]
    for frame in frames[::CLIP_STEP]:
        answer = frame.prediction
        rgb = brightened(frame.sample.rgb, gain)
        cells = [[rgb, preview(answer.x_image), blend(rgb, answer.labels, palette)]]
        seconds = (answer.stamp_ns - frames[0].prediction.stamp_ns) / 1e9
        picture = contact_sheet(
            cells,
            titles,
            [f"{seconds:.1f} s"],
            note=NOTE,
            legend_classes=(classes.names, palette, shown),
            cell_width=CELL_WIDTH,
        )
        shots.append(Image.fromarray(picture))
    first, *others = shots
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=CLIP_MS * CLIP_STEP,
        loop=0,
        quality=60,
    )


def display_gain(images: Sequence[Picture]) -> float:
    """Factor that brings dark images of one recording to a brightness that a screen shows."""
    bright = float(np.percentile(np.stack([image[::4, ::4] for image in images]), 98))
    return max(1.0, round(TARGET / max(bright, 1.0), 1))


def brightened(image: Picture, gain: float) -> Picture:
    """The image times a factor, saturated."""
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def main() -> int:
    """Draws both pictures; 2 where a recording cannot be had."""
    is_clip = sys.argv[1:] == ["clip"]
    try:
        replays, classes = {}, None
        for modality in [CLIP] if is_clip else MODALITIES:
            replays[modality], classes = replayed(modality)
    except SegrgbxError as error:
        print(error, file=sys.stderr)
        return 2
    if not is_clip:
        draw_sensors(replays, classes, IMAGES / "five_sensors.jpg")
    draw_clip(replays[CLIP], classes, IMAGES / "demo.webp")
    print(f"written: {IMAGES / 'five_sensors.jpg'}, demo.webp")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
