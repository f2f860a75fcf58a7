"""X onto RGB's grid before the model sees it: by homography, or by calibration of both cameras.

Depth stays raw and events stay events; any other X is encoded first, because the edge of its view
must not enter the statistics of its values, and a mosaic cannot be resampled at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode, resamples_linearly
from segrgbx_ros.config.options import PairConfig, Registration
from segrgbx_ros.messages import geometry


@dataclass(frozen=True, eq=False)
class Registrar:
    """Registers the samples of one pair.

    Attributes:
        pair: its name.
        options: its section.
        encoding: how X is drawn.
        sensor: facts about the drivers.
        rgb_info: newest calibration of RGB, None before it came.
        x_info: newest calibration of X, None before it came.
    """

    pair: str
    options: PairConfig
    encoding: EncodingConfig
    sensor: SensorConfig
    rgb_info: Any = None
    x_info: Any = None

    def register(self, sample: RgbxSample) -> RgbxSample:
        """The sample with X on the grid of RGB.

        Raises:
            EncodingError: when a calibration is missing or says nothing, or X cannot be encoded.
        """
        if self.options.registration is Registration.NONE:
            return sample
        height, width = sample.rgb.shape[:2]
        is_raw_depth = sample.modality is Modality.DEPTH and sample.x_form is XForm.RAW
        if is_raw_depth and self.options.registration is Registration.CAMERA_INFO:
            return self._registered_depth(sample)
        if isinstance(sample.x, Events):
            shape = (sample.x.height, sample.x.width)
            events = geometry.warp_events(sample.x, self._homography(sample, shape), height, width)
            return replace(sample, x=events)
        if is_raw_depth:
            homography = self._homography(sample, (sample.x.shape[0], sample.x.shape[1]))
            depth = geometry.warp(sample.x, homography, height, width, linear=False)
            return replace(sample, x=depth)
        x_image = encode(sample, self.encoding, self.sensor)
        picture = x_image if sample.modality is Modality.LIGHT_FIELD else sample.x
        rows, columns = picture.shape[:2]
        homography = self._homography(sample, (rows, columns))
        # A mosaic is drawn at half its size; a view of a light field is a picture of its own.
        homography = homography @ np.diag(
            [columns / x_image.shape[1], rows / x_image.shape[0], 1.0]
        )
        linear = resamples_linearly(sample.modality, self.encoding)
        moved = geometry.warp(x_image, homography, height, width, linear=linear)
        counts = np.rint(moved * np.float32(65535)).astype(np.uint16)
        return replace(sample, x=counts, x_form=XForm.IMAGE)

    def _homography(self, sample: RgbxSample, shape: tuple[int, int]) -> geometry.Matrix:
        if self.options.registration is Registration.HOMOGRAPHY:
            return np.reshape(np.array(self.options.homography, np.float64), (3, 3))
        rgb, x = self._cameras(sample, shape)
        return geometry.plane_homography(
            rgb, x, *geometry.pose(self.options.extrinsics), self.options.plane_m
        )

    def _registered_depth(self, sample: RgbxSample) -> RgbxSample:
        assert not isinstance(sample.x, Events)
        depth: Array = sample.x[..., 0] if sample.x.ndim == 3 else sample.x
        scale = self.sensor.depth.unit_16u if depth.dtype == np.uint16 else 1.0
        depth_m = depth.astype(np.float32) * np.float32(scale)
        rows, columns = depth.shape
        rgb, x = self._cameras(sample, (rows, columns))
        rotation, translation = geometry.pose(self.options.extrinsics)
        moved = geometry.register_depth(
            depth_m, x, rgb, rotation, translation, sample.rgb.shape[:2]
        )
        return replace(sample, x=moved)

    def _cameras(
        self, sample: RgbxSample, shape: tuple[int, int]
    ) -> tuple[geometry.Pinhole, geometry.Pinhole]:
        found = []
        for name, info, (height, width) in (
            ("rgb", self.rgb_info, sample.rgb.shape[:2]),
            ("x", self.x_info, shape),
        ):
            if info is None:
                raise EncodingError(
                    f"registration needs topic '{self.pair}/{name}/camera_info', where nothing "
                    "has arrived yet"
                )
            try:
                found.append(geometry.pinhole(info, height, width))
            except EncodingError as error:
                raise EncodingError(f"topic '{self.pair}/{name}/camera_info': {error}") from None
        return found[0], found[1]
