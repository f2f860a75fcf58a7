"""X onto RGB's grid before the model sees it: by homography, or by calibration of both cameras.

Depth stays raw and events stay events; any other X is encoded first, because the edge of its view
must not enter the statistics of its values, and a mosaic cannot be resampled at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from segrgbx_core.base.camera import Pinhole, depth_metres
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_core.sensors import (
    EncodingConfig,
    SensorConfig,
    encode,
    encoder_of,
    resamples_linearly,
)
from segrgbx_ros.config.options import PairConfig, Registration
from segrgbx_ros.messages import geometry

Infos = tuple[Any, Any]
"""Calibrations of RGB and X, None for one that has not come."""


class Registrar:
    """Registers the samples of one pair.

    Args:
        pair: its name.
        options: its section.
        encoding: how X is drawn.
        sensor: facts about the drivers.
    """

    def __init__(
        self, pair: str, options: PairConfig, encoding: EncodingConfig, sensor: SensorConfig
    ) -> None:
        self._pair = pair
        self._options = options
        self._encoding = encoding
        self._sensor = sensor
        self._registration: tuple[Any, geometry.DepthRegistration] | None = None

    def register(self, sample: RgbxSample, rgb_info: Any = None, x_info: Any = None) -> RgbxSample:
        """The sample with X on the grid of RGB.

        Args:
            sample: X as its driver publishes it.
            rgb_info: calibration of RGB, None before it came.
            x_info: calibration of X, None before it came.

        Raises:
            EncodingError: when a calibration is missing or says nothing, or X cannot be encoded.
        """
        if self._options.registration is Registration.NONE:
            return sample
        infos = rgb_info, x_info
        height, width = sample.rgb.shape[:2]
        encoder = encoder_of(sample.modality, self._encoding)
        is_raw_depth = encoder == Modality.DEPTH and sample.x_form is XForm.RAW
        if is_raw_depth and self._options.registration is Registration.CAMERA_INFO:
            return self._registered_depth(sample, infos)
        if isinstance(sample.x, Events):
            shape = (sample.x.height, sample.x.width)
            homography = self._homography(sample, shape, infos)
            events = geometry.warp_events(sample.x, homography, height, width)
            return replace(sample, x=events)
        if is_raw_depth:
            homography = self._homography(sample, sample.x.shape[:2], infos)
            depth = geometry.warp(sample.x, homography, height, width, linear=False)
            return replace(sample, x=depth)
        x_image = encode(sample, self._encoding, self._sensor)
        picture = x_image if encoder == Modality.LIGHT_FIELD else sample.x
        rows, columns = picture.shape[:2]
        homography = self._homography(sample, (rows, columns), infos)
        # A mosaic is drawn at half its size; a view of a light field is a picture of its own.
        homography = homography @ np.diag(
            [columns / x_image.shape[1], rows / x_image.shape[0], 1.0]
        )
        linear = resamples_linearly(sample.modality, self._encoding)
        moved = geometry.warp(x_image, homography, height, width, linear=linear)
        counts = np.rint(moved * np.float32(65535)).astype(np.uint16)
        return replace(sample, x=counts, x_form=XForm.IMAGE)

    def _homography(
        self, sample: RgbxSample, shape: tuple[int, ...], infos: Infos
    ) -> geometry.Matrix:
        if self._options.registration is Registration.HOMOGRAPHY:
            return np.reshape(np.array(self._options.homography, np.float64), (3, 3))
        rgb, x = self._cameras(sample, shape, infos)
        return geometry.plane_homography(
            rgb, x, *geometry.pose(self._options.extrinsics), self._options.plane_m
        )

    def _registered_depth(self, sample: RgbxSample, infos: Infos) -> RgbxSample:
        assert not isinstance(sample.x, Events)
        depth: Array = sample.x[..., 0] if sample.x.ndim == 3 else sample.x
        rgb, x = self._cameras(sample, depth.shape, infos)
        rows, columns, height, width = *depth.shape, *sample.rgb.shape[:2]
        key = (rgb, x, rows, columns, height, width)
        if self._registration is None or self._registration[0] != key:
            pose = geometry.pose(self._options.extrinsics)
            registration = geometry.DepthRegistration(
                x, rgb, *pose, (rows, columns), (height, width)
            )
            self._registration = key, registration
        depth_m = depth_metres(depth, self._sensor.depth.unit_16u)
        return replace(sample, x=self._registration[1].apply(depth_m))

    def _cameras(
        self, sample: RgbxSample, shape: tuple[int, ...], infos: Infos
    ) -> tuple[Pinhole, Pinhole]:
        cameras = []
        sizes = (sample.rgb.shape, shape)
        for name, info, (height, width, *_) in zip(("rgb", "x"), infos, sizes, strict=True):
            topic = f"topic '{self._pair}/{name}/camera_info'"
            if info is None:
                raise EncodingError(f"registration needs {topic}, where nothing has arrived yet")
            try:
                cameras.append(geometry.pinhole(info, height, width))
            except EncodingError as error:
                raise EncodingError(f"{topic}: {error}") from None
        return cameras[0], cameras[1]
