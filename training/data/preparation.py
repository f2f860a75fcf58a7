"""Whole frames as training takes them up: RGB, the X image and unified labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from segrgbx_core.base.errors import DataError, EncodingError, SegrgbxError
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from training.data.augment import AugmentConfig, Views
from training.data.datasets import Labelled, Reader, sensor_of


@dataclass(frozen=True)
class Preparation:
    """What turns a data set's sample into a training view.

    Attributes:
        label_space: unified classes and the data sets' maps.
        encoding: how X images are made.
        sensor: facts about the sensors of data sets whose reader does not state them.
        augment: training views.
        keeps_frames: True keeps prepared frames in memory, for data sets that fit.
    """

    label_space: LabelSpace
    encoding: EncodingConfig
    sensor: SensorConfig
    augment: AugmentConfig
    keeps_frames: bool = False


def prepare(reader: Reader, index: int, preparation: Preparation) -> Views:
    """A whole frame: RGB, the encoded X at its own resolution, unified labels.

    Raises:
        DataError: naming the file or sample that is missing, broken or outside its table.
        EncodingError: naming the sample whose X does not fit the encoder.
    """
    item = reader[index]
    sample = item.sample
    sensor = sensor_of(reader, preparation.sensor)
    try:
        x_image = encode(sample, preparation.encoding, sensor)
    except EncodingError as error:
        raise EncodingError(f"{reader.native} sample '{item.name}': {error}") from None
    labels = unified_labels(item, reader, preparation.label_space)
    x = torch.from_numpy(np.ascontiguousarray(x_image.transpose(2, 0, 1)))
    if torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]):
        x = x[:1].clone().expand(3, -1, -1)  # a grey picture is kept once
    return Views(
        rgb=torch.from_numpy(np.ascontiguousarray(sample.rgb.transpose(2, 0, 1))),
        x=x,
        labels=torch.from_numpy(labels),
        modality=sample.modality,
    )


def unified_labels(item: Labelled, reader: Reader, label_space: LabelSpace) -> NDArray[np.uint8]:
    """Labels of a sample in unified ids.

    Raises:
        DataError: naming the sample, for an id outside its table.
    """
    try:
        return label_space.unify(item.labels, reader.native)
    except DataError as error:
        raise DataError(f"{reader.native} sample '{item.name}': {error}") from None


def read_ahead(loader: DataLoader[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """A loader's batches; what is wrong with the data stays one line also where workers read it.

    Raises:
        SegrgbxError: the reader's own error, without the traceback of the worker around it.
    """
    try:
        yield from loader
    except SegrgbxError as error:
        # A worker's error arrives with its traceback as text; the last line is the error's own.
        kind = type(error)
        line = str(error).rstrip().rsplit("\n", maxsplit=1)[-1]
        raise kind(line.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")) from None
