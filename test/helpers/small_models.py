"""The smallest networks of every architecture, and what tests export of them."""

import numpy as np

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.model import ALL_PRESETS
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import FORMAT, Contract, default_contract
from segrgbx_core.sensors import AddedModality

SIZE = (64, 96)


def small_contract(preset="tiny", **changes):
    """A contract with one narrow block per stage."""
    config = ALL_PRESETS[preset]
    shape = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 2)}
    update = {"backbone": config.backbone.model_copy(update=shape)}
    if preset == "tiny":
        update["refinement"] = config.refinement.model_copy(update={"depth": 1, "num_heads": 2})
    clip = CLIP_PRESETS["tiny"].model_copy(update={"depth": 1})
    size = InputConfig(height=SIZE[0], width=SIZE[1])
    model = config.model_copy(update={**update, **changes})
    return default_contract(preset, model=model, ma_clip=clip, input=size)


LIDAR = AddedModality(high=50.0, unit="m", zero_is_missing=True, interpolates=False)


def with_added(contract, **added):
    """A contract with modalities beyond the five, in the order in which they are named."""
    added = {
        Modality(name): one.model_copy(update={"slot": slot})
        for slot, (name, one) in enumerate(added.items(), len(MODALITIES))
    }
    encoding = contract.encoding.model_copy(update={"added": added})
    modalities = (*contract.modalities, *added)
    changes = {"encoding": encoding, "modalities": modalities, "format": FORMAT}
    return Contract(**{**dict(contract), **changes})


def sample(modality=Modality.THERMAL, height=72, width=100, seed=0):
    """Blocks of colour with noise for X."""
    rng = np.random.default_rng(seed)
    rgb = np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 3)), 12, 0), 14, 1)[:height, :width]
    x = rng.integers(28000, 32000, (40, 50)).astype(np.uint16)
    if modality is Modality.LIGHT_FIELD:
        x = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    return RgbxSample(rgb.astype(np.uint8), x, modality, seed)
