"""What is needed to use a SegRGB-X checkpoint: no ROS, no bags, no training.

    from segrgbx_core import RgbxSample, Segmenter

    segmenter = Segmenter.from_checkpoint("checkpoint.safetensors")
    (prediction,) = segmenter.predict([sample])

A folder says what its files may import: `base`, `labels`, `sensors` and `sync` use NumPy and
OpenCV and import in well under a second; `model`, `runtime`, `export` and `bench` use torch.
Importing this package loads neither; the names above are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segrgbx_core.base.samples import Prediction, RgbxSample
    from segrgbx_core.runtime.segmenter import Segmenter

__all__ = ["Prediction", "RgbxSample", "Segmenter"]
__version__ = "0.1.0"

_MODULES = {
    "Prediction": "segrgbx_core.base.samples",
    "RgbxSample": "segrgbx_core.base.samples",
    "Segmenter": "segrgbx_core.runtime.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'segrgbx_core' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
