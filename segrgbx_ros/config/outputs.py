"""What the node publishes, as options: labels and images."""

from __future__ import annotations

from enum import Enum

from pydantic import model_validator

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.runtime.options import ConfidenceKind


class MaskEncoding(str, Enum):
    """Encoding of the mask."""

    MONO8 = "mono8"
    MONO16 = "mono16"


class ConfidenceEncoding(str, Enum):
    """Encoding of the confidence image."""

    MONO8 = "mono8"
    FLOAT = "32FC1"


class OutputSize(str, Enum):
    """Grid of mask and confidence."""

    INPUT = "input"
    MODEL = "model"
    CUSTOM = "custom"


class LabelConfig(Config):
    """Which labels are published."""

    space: str = option(
        "unified", doc="label space: unified, or that of one of the checkpoint's data sets"
    )
    file: PathText = option(
        "",
        doc="YAML that gathers classes of the label space into classes of your own (names, "
        "colours, ids); empty: publish them as they are",
    )
    palette_file: PathText = option("", doc="YAML with other colours by class name; empty: none")
    min_confidence: float = option(
        0.0,
        doc="pixels whose class is less probable than this become unlabeled",
        low=0,
        high=1,
        dynamic=True,
    )
    unlabeled_id: int = option(
        255,
        doc="id of pixels without an answer in the published masks; none of the classes' ids",
        low=0,
        high=65535,
    )


class OutputConfig(Config):
    """Which topics besides the mask are published, and how they look."""

    size: OutputSize = option(
        OutputSize.INPUT,
        doc="grid of mask and confidence: input (RGB's own), model (what the network sees, "
        "cheapest) or custom (output.width and output.height)",
    )
    width: int = option(
        0, doc="columns of mask and confidence (output.size: custom)", unit="px", low=0, high=8192
    )
    height: int = option(
        0, doc="rows of mask and confidence (output.size: custom)", unit="px", low=0, high=8192
    )
    publish_confidence: bool = option(True, doc="publish the confidence image", dynamic=True)
    publish_color: bool = option(
        True, doc="publish mask_color while someone subscribes", dynamic=True
    )
    publish_overlay: bool = option(
        True, doc="publish overlay while someone subscribes", dynamic=True
    )
    publish_preview: bool = option(
        True,
        doc="publish x/preview (X as the model sees it) while someone subscribes",
        dynamic=True,
    )
    overlay_alpha: float = option(
        0.5, doc="weight of the label colours in the overlay", low=0, high=1, dynamic=True
    )
    overlay_jpeg_quality: int = option(
        80, doc="JPEG quality of overlay/compressed", low=1, high=100, dynamic=True
    )
    publish_points: bool = option(
        True,
        doc="publish points, the labelled cloud of a depth pair, while someone subscribes; needs "
        "rgb/camera_info",
        dynamic=True,
    )
    publish_debug: bool = option(
        False, doc="publish ~/debug/<stage>_ms, one duration per pass and stage", dynamic=True
    )
    small_width: int = option(
        0,
        doc="width of mask_small and confidence_small, for costmaps; 0: none",
        unit="px",
        low=0,
        high=2048,
    )
    mask_encoding: MaskEncoding = option(
        MaskEncoding.MONO8, doc="encoding of the masks; Nav2 reads mono8 only"
    )
    confidence_encoding: ConfidenceEncoding = option(
        ConfidenceEncoding.MONO8,
        doc="encoding of the confidence images: mono8 (0 to 255) or 32FC1 (0 to 1, in steps of "
        "1/255)",
    )
    confidence_kind: ConfidenceKind = option(
        ConfidenceKind.MAX_PROB,
        doc="what confidence says: max_prob (probability of the class), margin (its lead over the "
        "next class) or entropy (1 minus the share of the largest entropy); the latter two cost "
        "more on a CPU",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> OutputConfig:
        is_sized = min(self.width, self.height) > 0
        if (self.size is OutputSize.CUSTOM) != is_sized:
            raise ValueError(
                f"width {self.width} and height {self.height} go with size: custom, and only with "
                f"it; size is {self.size.value}"
            )
        if self.small_width and self.size is not OutputSize.INPUT:
            raise ValueError(
                "small_width is for masks on RGB's grid, because one camera_info describes the "
                f"other grid; size is {self.size.value}"
            )
        return self
