"""Feature maps of the four stages as heat maps (the paper's Figs. 8 and 10).

Legend: D channels of a stage, h w its map, H W pixels of the RGB image. Maps are caught by forward
hooks, without a change of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.labels.overlay import (
    LIGHT,
    Picture,
    colourise,
    confidence_image,
    contact_sheet,
    present_ids,
    preview,
)
from segrgbx_core.model import SegRGBX
from segrgbx_core.runtime.batch import Placement, make_batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.runtime.decode import decode_logits
from segrgbx_core.runtime.devices import flushed_denormals
from segrgbx_core.sensors import encode
from training.data.datasets import Labelled, spread
from training.eval.eval_data import EvalSplit
from training.figures.inputs import origin_note

_PERCENTILES = (1.0, 99.0)
_STREAMS = ("RGB", "X")


@dataclass(frozen=True, eq=False)
class StageMaps:
    """One frame on its way through the network.

    Attributes:
        streams: per stream, then per stage, heat maps float32 (h, w) behind the stage's blocks.
        refined: per stream, stage 4 behind the DSRM; empty for a model without one.
        fused: per stage, the fused map that the head sees.
        change: per stream, how much the DSRM changes stage 4: norm of the difference over norm.
        placement: where the image lies in the model's input.
        input_size: (height, width) of the model's input.
        x_image: float32 (h, w, 3) in [0, 1].
        labels: uint8 (H, W), unified ids, argmax among the data set's own classes.
    """

    streams: tuple[tuple[NDArray[np.float32], ...], ...]
    refined: tuple[NDArray[np.float32], ...]
    fused: tuple[NDArray[np.float32], ...]
    change: tuple[float, ...]
    placement: Placement
    input_size: tuple[int, int]
    x_image: NDArray[np.float32]
    labels: NDArray[np.uint8]


@contextmanager
def record_stages(model: SegRGBX) -> Iterator[dict[str, Tensor]]:
    """Records outputs while the block runs: `stage_i`, `fused_i` (i = 1..4), `before`, `after`.

    `before` and `after` are the DSRM's input and output; a model without DSRM has neither.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output.detach())

    def record_both(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        outputs.update(before=inputs[0].detach(), after=output.detach())

    handles = []
    parts = zip(model.backbone.stages, model.fuse, strict=True)
    for number, (stage, fuse) in enumerate(parts, start=1):
        handles.append(stage.register_forward_hook(record(f"stage_{number}")))
        handles.append(fuse.register_forward_hook(record(f"fused_{number}")))
    if len(model.refine.blocks):
        handles.append(model.refine.register_forward_hook(record_both))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def heat(features: Tensor) -> NDArray[np.float32]:
    """How much each place of a map (D, h, w) differs from the map's mean place, (h, w).

    The length of the difference over all channels. Lengths of the features themselves would show
    little: a stage ends in a layer norm, which makes them nearly equal.
    """
    features = features.float()
    return (features - features.mean(dim=(1, 2), keepdim=True)).norm(dim=0).cpu().numpy()


@torch.inference_mode()
def stage_maps(loaded: LoadedCheckpoint, item: Labelled, split: EvalSplit) -> StageMaps:
    """Runs one frame and keeps its maps.

    Raises:
        ConfigError: when the checkpoint is a baseline or lacks the data set's classes.
        CheckpointError: when it was not trained for the modality.
    """
    model, contract = loaded.model, loaded.contract
    if not isinstance(model, SegRGBX):
        raise ConfigError(
            f"checkpoint {loaded.name}: is {contract.model.architecture}; feature maps are "
            "of segrgbx's stages"
        )
    loaded.require(split.modality)
    device = next(model.parameters()).device
    x_image = encode(item.sample, contract.encoding, split.sensors)
    modality = item.sample.modality
    batch = make_batch([item.sample.rgb], [x_image], [modality], contract.input, contract.encoding)
    rgb, x, index = (part.to(device) for part in (batch.rgb, batch.x, batch.modality))
    columns = torch.from_numpy(loaded.label_space.project_index(split.reader.native)).to(device)
    with flushed_denormals(), record_stages(model) as outputs:
        alone = batch.without_border
        embeddings = loaded.ma_clip(alone.rgb.to(device), alone.x.to(device), index)
        logits = model(rgb, x, *embeddings, index)
    answer, _ = decode_logits(logits.index_select(1, columns), batch.placements)[0]
    stages = range(1, len(model.backbone.stages) + 1)
    both = range(len(_STREAMS))
    has_dsrm = "after" in outputs
    return StageMaps(
        streams=tuple(tuple(heat(outputs[f"stage_{i}"][s]) for i in stages) for s in both),
        refined=tuple(heat(outputs["after"][s]) for s in both) if has_dsrm else (),
        fused=tuple(heat(outputs[f"fused_{i}"][0]) for i in stages),
        change=tuple(_change(outputs["before"][s], outputs["after"][s]) for s in both)
        if has_dsrm
        else (),
        placement=batch.placements[0],
        input_size=contract.input.canvas,
        x_image=x_image,
        labels=loaded.label_space.unify(answer, split.reader.native),
    )


def feature_sheet(
    loaded: LoadedCheckpoint, splits: Sequence[EvalSplit], samples: int, cell_width: int = 190
) -> Picture:
    """Heat maps of some frames of every data set: three rows per frame (RGB, X, fused).

    Args:
        loaded: checkpoint of SegRGB-X.
        splits: data sets.
        samples: frames per data set, evenly spread.
        cell_width: width of a cell, in pixels.

    Returns:
        uint8 (H, W, 3).
    """
    rows: list[list[Picture | None]] = []
    captions: list[str] = []
    shown: list[NDArray[np.uint8]] = []
    palette = loaded.label_space.palette_array()
    picks = [(s, index) for s in splits for index in spread(len(s.reader), samples)]
    for split, index in tqdm(picks, unit="frame", desc="feature maps", leave=False):
        item = split.reader[index]
        maps = stage_maps(loaded, item, split)
        shown.append(maps.labels)
        images = (item.sample.rgb, preview(maps.x_image))
        for stream, image in enumerate(images):
            heats = [*maps.streams[stream], *maps.refined[stream : stream + 1]]
            rows.append([image, *(_picture(one, maps) for one in heats)])
        last: list[Picture | None] = [_picture(one, maps) for one in maps.fused]
        if maps.refined:
            last.insert(len(last) - 1, None)  # maps are fused behind the DSRM only
        rows.append([colourise(maps.labels, palette), *last])
        named = f"{split.title}: {' '.join([item.name, *item.groups])}"
        changed = [f"{c:.0%} ({name})" for name, c in zip(_STREAMS, maps.change, strict=False)]
        effect = f"; the DSRM changes stage 4 by {', '.join(changed)}" if changed else ""
        captions += [f"RGB. {named}", "X as the model sees it", f"fused, with the answer{effect}"]
    titles = ["image", "stage 1", "stage 2", "stage 3", "stage 4"]
    if rows and len(rows[0]) > len(titles):
        titles = [*titles[:-1], "stage 4, before DSRM", "stage 4, after DSRM"]
    note = "Distance of each place from its map's mean; dark is near; every map on its own scale."
    return contact_sheet(
        rows,
        titles,
        captions,
        heading=f"Feature maps: {loaded.name}",
        note=f"{note} {origin_note(splits, [loaded.contract])}",
        legend_classes=(loaded.label_space.names, palette, present_ids(*shown)),
        cell_width=cell_width,
        theme=LIGHT,
    )


def _picture(values: NDArray[np.float32], maps: StageMaps) -> Picture:
    """A heat map in colours, on the part of the model's input that holds the image."""
    placement = maps.placement
    grid = F.interpolate(
        torch.from_numpy(values)[None, None], maps.input_size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    grid = grid[
        placement.top : placement.top + placement.height,
        placement.left : placement.left + placement.width,
    ]
    low, high = np.percentile(grid, _PERCENTILES)
    scaled = (grid - low) / max(float(high - low), 1e-12)
    return confidence_image(np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8))


def _change(before: Tensor, after: Tensor) -> float:
    return float((after - before).float().norm() / before.float().norm())
