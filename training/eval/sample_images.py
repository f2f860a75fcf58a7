"""Predictions of sample images beside the truth, drawn while a model is trained."""

from __future__ import annotations

from pathlib import Path

from segrgbx_core.base.samples import Array
from segrgbx_core.labels.overlay import Picture, blend, contact_sheet, present_ids
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from training.data.datasets import Reader, sensor_of, spread


def prediction_sheet(
    checkpoint: Path | str,
    reader: Reader,
    count: int,
    sensors: SensorConfig | None = None,
    config: InferenceConfig | None = None,
) -> Picture:
    """A sheet of evenly spread samples: RGB, X as the model sees it, truth and answer over RGB.

    Args:
        checkpoint: file to load.
        reader: samples with truth.
        count: rows, at least 1.
        sensors: facts about the data set's sensors, where its reader does not state them.
        config: device and precision.

    Returns:
        uint8 (H, W, 3) with a legend of the classes that occur in truth or answers.
    """
    sensor = sensor_of(reader, sensors)
    segmenter = Segmenter.from_checkpoint(checkpoint, config, sensor, label_space=reader.native)
    encoding: EncodingConfig = segmenter.contract.encoding
    native = segmenter.label_space.native(reader.native)
    palette = native.palette_array()
    items = [reader[index] for index in spread(len(reader), count)]
    predicted = [one.labels for one in segmenter.predict([item.sample for item in items])]
    rows: list[list[Array | None]] = [
        [
            item.sample.rgb,
            encode(item.sample, encoding, sensor),
            blend(item.sample.rgb, item.labels, palette),
            blend(item.sample.rgb, labels, palette),
        ]
        for item, labels in zip(items, predicted, strict=True)
    ]
    shown = present_ids(*(item.labels for item in items), *predicted)
    return contact_sheet(
        rows,
        ("RGB", reader.modality.facts.title, "truth", "answer"),
        [" ".join((item.name, *item.groups)) for item in items],
        heading=f"{native.name}, {reader.modality}",
        legend_classes=(native.names, palette, shown),
    )
