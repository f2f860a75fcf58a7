"""Turns weights that a baseline's authors have released into a checkpoint with its contract.

    segrgbx-import FILE --as cmx_b2 --classes mfnet --modality thermal --out CHECKPOINT
    segrgbx-import TRANSFORMERS_FOLDER --as segformer_b2 --out CHECKPOINT

Node, replay, evaluation, export and bench run the result like any other checkpoint. Nothing in the
file is executed. Weights must fit exactly; the first one that does not is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrgbx_core.base.errors import CheckpointError, ConfigError, command, did_you_mean
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.export.transformers_folder import TransformersFolder, transformers_folder
from segrgbx_core.labels.label_space import LabelSpace, joined_label_space, unified_label_space
from segrgbx_core.labels.tables import PUBLIC_SPACES, NativeSpace
from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.baselines import (
    MIT_SIZES,
    BaselineConfig,
    CmnextConfig,
    CmxConfig,
    GeminifusionConfig,
    SegformerConfig,
    StitchfusionConfig,
    build_baseline,
)
from segrgbx_core.model.baselines.released import load_released_weights
from segrgbx_core.model.baselines.segformer_weights import code_base_of
from segrgbx_core.model.baselines.stitchfusion import AdapterConfig, Stitch
from segrgbx_core.model.ma_clip import CLIP_PRESETS, ModalityAwareClip
from segrgbx_core.model.tensor_files import file_hash, read_weights, weights_file
from segrgbx_core.model.weights import without_prefix
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import Contract, save_checkpoint

_LAST = ("decode_head.linear_pred.weight", "decoder.linear_pred.weight")


@dataclass(frozen=True)
class Release:
    """A family of released weights.

    Attributes:
        config: the network as its authors run it, of any size.
        licence: of the authors' repository; the encoder's own terms come besides.
        source: repository.
    """

    config: BaselineConfig
    licence: str
    source: str


_CMX = CmxConfig()
RELEASES: dict[str, Release] = {
    "cmx": Release(
        _CMX.model_copy(update={"bgr": True}), "MIT", "huaaaliu/RGBX_Semantic_Segmentation"
    ),
    "cmx_deliver": Release(
        _CMX.model_copy(
            update={
                "normalise_x": False,
                "backbone": _CMX.backbone.model_copy(update={"block_norm_eps": 1e-5}),
                "head": _CMX.head.model_copy(update={"fuse_bias": False, "norm_eps": 1e-5}),
            }
        ),
        "Apache-2.0",
        "jamycheung/DELIVER",
    ),
    "cmnext": Release(CmnextConfig(), "Apache-2.0", "jamycheung/DELIVER"),
    "geminifusion": Release(GeminifusionConfig(), "MIT", "JiaDingCN/GeminiFusion"),
    "stitchfusion": Release(StitchfusionConfig(), "Apache-2.0", "LiBingyu01/StitchFusion"),
    "segformer": Release(
        SegformerConfig(), "of whoever trained it, often NVIDIA's", "NVlabs/SegFormer"
    ),
}
"""By the name before the size in `--as`; the branches of GeminiFusion differ in their names."""


def import_weights(
    state: Mapping[str, Tensor],
    name: str,
    label_space: LabelSpace,
    where: str = "weights",
    sizes: Mapping[str, Mapping[str, Any]] = MIT_SIZES,
) -> tuple[torch.nn.Module, BaselineConfig]:
    """A baseline filled with released weights.

    Args:
        state: the file's tensors.
        name: family and size, such as `cmx_b2`.
        label_space: the classes in the order of the file's last layer.
        where: put before every message.
        sizes: encoders by name.

    Raises:
        ConfigError: when the name is not known.
        CheckpointError: naming the first tensor that does not fit, or the number of classes.
    """
    family, _, size = name.rpartition("_")
    if family not in RELEASES or size not in sizes:
        known = [f"{one}_{other}" for one in RELEASES for other in sizes]
        hint = did_you_mean(name, known)
        raise ConfigError(f"--as: '{name}' is not known{hint}")
    state = without_prefix(state, "module.")
    start = RELEASES[family].config
    marks: tuple[str, ...] = _LAST
    if isinstance(start, SegformerConfig):
        code_base = code_base_of(state, where)
        start, marks = code_base.config(start), (f"{code_base.last}weight",)
    last = next((state[one] for one in marks if one in state), None)
    if last is None:
        raise CheckpointError(
            f"{where}: has no layer {marks[0].removesuffix('.weight')}; it is no whole "
            f"{family}, such as an encoder alone"
        )
    if last.shape[0] != label_space.num_classes:
        raise CheckpointError(
            f"{where}: has {last.shape[0]} classes and --classes names "
            f"{label_space.num_classes}; name the data set that it was trained on"
        )
    if last.ndim != 4:
        raise CheckpointError(
            f"{where}: its last layer has shape {tuple(last.shape)}; expected 4 axes"
        )
    config = _config(start, dict(sizes[size]), state, int(last.shape[1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_baseline(config, label_space.num_classes, CLIP_PRESETS["tiny"].output_dim)
    load_released_weights(model, dict(state), where=where)  # type: ignore[arg-type]
    return model.eval(), config


def _config(
    config: BaselineConfig, shape: dict[str, Any], state: Mapping[str, Tensor], width: int
) -> BaselineConfig:
    """A family's config in a size, with the width of the head that the file has."""
    backbone = BackboneConfig.model_validate({**config.backbone.model_dump(), **shape})
    head = config.head.model_copy(update={"embed_dim": width})
    changes: dict[str, Any] = {"backbone": backbone, "head": head}
    if isinstance(config, StitchfusionConfig) and any("adap_t_att21" in one for one in state):
        changes["adapter"] = AdapterConfig(stitch=Stitch.PER_DIRECTION)
    return config.model_copy(update=changes)


def classes_of(text: str, modality: Modality | None) -> LabelSpace:
    """The classes of a file's last layer.

    Args:
        text: a public data set's name, or a file with a class name a line.
        modality: of X; None when it is ignored.

    Raises:
        ConfigError: when it is neither, or a class stands twice.
    """
    if text in {space.name for space in PUBLIC_SPACES}:
        return joined_label_space(None, [(unified_label_space(), text)])
    path = Path(text)
    if not path.is_file():
        known = [space.name for space in PUBLIC_SPACES]
        raise ConfigError(
            f"--classes: '{text}' is no file and no data set{did_you_mean(text, known)}"
        )
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    return own_classes(names, path.stem, modality)


def own_classes(names: tuple[str, ...], name: str, modality: Modality | None) -> LabelSpace:
    """A label space of classes that no data set here has, with colours of its own.

    Raises:
        ConfigError: when there are none or too many, or one stands twice.
    """
    palette = tuple(((53 * i + 90) % 256, (91 * i + 40) % 256, i % 256) for i in range(len(names)))
    native = NativeSpace(
        names=names,
        palette=palette,
        name=name,
        modality=modality,
        to_unified=tuple(range(len(names))),
    )
    return LabelSpace(names=names, palette=palette, natives=(native,))


def _classes(
    text: str | None,
    file: str,
    folder: TransformersFolder | None,
    modalities: tuple[Modality, ...],
) -> LabelSpace:
    """What `--classes` names, else the classes that a transformers folder lists."""
    modality = modalities[0] if len(modalities) == 1 else None
    if text is not None:
        return classes_of(text, modality)
    if folder is None:
        raise ConfigError(
            f"--classes: is missing; '{file}' is no folder of transformers and names no classes"
        )
    return own_classes(folder.class_names(), folder.path.resolve().name, modality)


@command()
def main(
    argv: Sequence[str] | None = None, sizes: Mapping[str, Mapping[str, Any]] = MIT_SIZES
) -> int:
    """Command line; 2 for a user error. `sizes` as in `import_weights`."""
    args = _parser().parse_args(argv)
    family = args.name.rpartition("_")[0]
    modalities = tuple(MODALITIES) if args.modality is None else (Modality(args.modality),)
    if args.modality is None and family != "segformer":
        raise ConfigError(f"--modality: is missing; {args.name} needs the modality of its X")
    folder = transformers_folder(args.file)
    space = _classes(args.classes, args.file, folder, modalities)
    _say(f"reading {args.file}")
    state = without_prefix(read_weights(args.file), "module.")
    _say(f"building {args.name} from {len(state)} tensors")
    model, config = import_weights(state, args.name, space, args.file, sizes)
    if folder is not None:
        folder.check_segformer(config.backbone)
    release = RELEASES[family]
    height, width = args.size
    contract = Contract(
        model=config,
        ma_clip=CLIP_PRESETS["tiny"],
        input=InputConfig(height=height, width=width),
        label_space=space.to_dict(),
        modalities=modalities,
        native_spaces=tuple(native.name for native in space.natives),
        provenance={
            "imported": Path(args.file).name,
            "sha256": file_hash(weights_file(args.file)),
            "as": args.name,
            "source": release.source,
            **({"code": code_base_of(state, args.file).title} if family == "segformer" else {}),
            "licence": f"{release.licence}; encoders descend from SegFormer (NVIDIA, "
            "non-commercial): check the terms of the weights",
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ma_clip = ModalityAwareClip(CLIP_PRESETS["tiny"])  # every checkpoint has one; never run
    _say(f"writing {args.out}")
    save_checkpoint(args.out, model, ma_clip, contract)
    count = sum(values.numel() for values in model.parameters()) / 1e6
    sys.stdout.write(
        f"{args.name}, {count:.2f} M parameters, {space.num_classes} classes, "
        f"{', '.join(modalities) if args.modality else 'X ignored'}: "
        f"{args.out}\n"
    )
    return 0


def _say(step: str) -> None:
    sys.stderr.write(f"{step}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segrgbx-import",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        type=path_text,
        help="released weights: .pth, .pt, .safetensors, or a folder of transformers",
    )
    parser.add_argument(
        "--as",
        dest="name",
        required=True,
        help=f"family and size: {', '.join(RELEASES)}, each with _{', _'.join(MIT_SIZES)}",
    )
    parser.add_argument(
        "--classes",
        help="data set that it was trained on, or a file of names; not needed for a folder of "
        "transformers, which names them",
    )
    parser.add_argument(
        "--modality",
        choices=[one.value for one in MODALITIES],
        help="of X; may be left out for segformer, which ignores X: then any",
    )
    parser.add_argument(
        "--size", type=image_size, default=(480, 640), metavar="WxH", help="input (640x480)"
    )
    parser.add_argument("--out", type=path_text, required=True, help="checkpoint to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
