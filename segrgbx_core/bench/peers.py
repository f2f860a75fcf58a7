"""The authors' own models, from checkouts that the user made: what `segrgbx-bench --peers` times.

Nothing of theirs is in this repository. An adapter names the folder, what to import, how the model
is built and called. What their code imports for training alone is replaced by a stand-in where it
is not installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from segrgbx_core.base.errors import ConfigError, shortened
from segrgbx_core.model.network import IMAGENET

_STREAMS = ["img", "depth"]
"""Names that the authors' configurations give to RGB and one X; any X costs the same."""


@dataclass(frozen=True)
class Peer:
    """How to run the model of one checkout.

    Attributes:
        title: for tables.
        folder: name of the checkout, as its repository is called.
        source: what to clone, for messages.
        module: what to import.
        build: a model from that module, a size (b0, b1 or b2) and a number of classes.
        unused: packages that the code imports and this model does not call.
        takes_list: the model is called with a list of both images.
        normalises_x: X is normalised as RGB is.
    """

    title: str
    folder: str
    source: str
    module: str
    build: Callable[[Any, str, int], nn.Module]
    unused: tuple[str, ...] = ()
    takes_list: bool = True
    normalises_x: bool = False


def _cmx(module: Any, size: str, classes: int) -> nn.Module:
    return module.EncoderDecoder(
        SimpleNamespace(
            backbone=f"mit_{size}",
            decoder="MLPDecoder",
            decoder_embed_dim=256 if size in ("b0", "b1") else 512,
            num_classes=classes,
            pretrained_model=None,
            bn_eps=1e-3,
            bn_momentum=0.1,
        )
    )


def _cmnext(module: Any, size: str, classes: int) -> nn.Module:
    return module.CMNeXt(f"CMNeXt-{size.upper()}", classes, _STREAMS)


def _geminifusion(module: Any, size: str, classes: int) -> nn.Module:
    return module.GeminiFusion(f"GeminiFusionBackbone-{size.upper()}", classes, _STREAMS)


def _stitchfusion(module: Any, size: str, classes: int) -> nn.Module:
    return module.stitchfusion(f"stitchfusion-{size.upper()}", classes, _STREAMS)


_TOOLS = ("einops", "fvcore", "mmcv", "rich", "tabulate", "tensorboard", "tqdm")
PEERS = {
    "cmx_authors": Peer(
        "CMX, authors' code",
        "RGBX_Semantic_Segmentation",
        "huaaaliu/RGBX_Semantic_Segmentation",
        "models.builder",
        _cmx,
        takes_list=False,
        normalises_x=True,
    ),
    "cmnext_authors": Peer(
        "CMNeXt, authors' code",
        "DELIVER",
        "jamycheung/DELIVER",
        "semseg.models",
        _cmnext,
        _TOOLS,
    ),
    "geminifusion_authors": Peer(
        "GeminiFusion, authors' code",
        "GeminiFusion",
        "JiaDingCN/GeminiFusion (branch DeLiVER)",
        "semseg.models",
        _geminifusion,
        _TOOLS,
    ),
    "stitchfusion_authors": Peer(
        "StitchFusion, authors' code",
        "StitchFusion",
        "LiBingyu01/StitchFusion",
        "semseg.models",
        _stitchfusion,
        _TOOLS,
    ),
}
"""What `--peers` can time, by key."""


class PeerModel(nn.Module):
    """An authors' model that takes a pair as ours do.

    Args:
        peer: its adapter.
        inner: their model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, peer: Peer, inner: nn.Module) -> None:
        super().__init__()
        self.peer, self.inner = peer, inner
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W) in [0, 1]."""
        images = [self._normalised(rgb), self._normalised(x) if self.peer.normalises_x else x]
        made = self.inner(images) if self.peer.takes_list else self.inner(*images)
        # Where each stream has logits of its own, the last are those of both together.
        return made[-1] if isinstance(made, (list, tuple)) else made

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def found(folder: Path) -> list[str]:
    """Keys of the peers whose checkout lies in a folder.

    Raises:
        ConfigError: when there is none.
    """
    keys = [key for key, peer in PEERS.items() if (folder / peer.folder).is_dir()]
    if not keys:
        wanted = ", ".join(f"{peer.folder} of {peer.source}" for peer in PEERS.values())
        raise ConfigError(f"peers: {folder} holds no checkout; clone into it any of {wanted}")
    return keys


def load_peer(key: str, folder: Path, size: str, classes: int) -> PeerModel:
    """An authors' model with the random weights that their code gives it, in evaluation mode.

    Args:
        key: of `PEERS`.
        folder: holds the checkouts.
        size: b0, b1 or b2.
        classes: of the model.

    Raises:
        ConfigError: when the checkout is missing, or cannot be imported or built here.
    """
    peer = PEERS[key]
    checkout = folder / peer.folder
    if not checkout.is_dir():
        raise ConfigError(
            f"peers: {folder} has no {peer.folder}; clone {peer.source} into it or leave out {key}"
        )
    with _importable(checkout, peer.unused):
        try:
            inner = peer.build(importlib.import_module(peer.module), size, classes)
        except ModuleNotFoundError as error:
            what = "the checkout lacks it: is it the right branch of " + peer.source + "?"
            if not _is_own(error.name or "", peer.module):
                what = "install it, or put a folder that has it on PYTHONPATH"
            raise ConfigError(f"peers: {checkout} needs {error.name}; {what}") from error
        except Exception as error:  # foreign code may raise anything
            raise ConfigError(
                f"peers: {checkout}: {peer.title} of size {size} cannot be built: "
                f"{type(error).__name__}: {shortened(str(error), 200)}"
            ) from error
    return PeerModel(peer, inner.eval())


def _is_own(name: str, module: str) -> bool:
    return name.split(".")[0] == module.split(".")[0]


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds empty modules in place of packages that are not installed; asked last."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in self._names:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


class _StandIn(ModuleType):
    """Whatever is imported from it is a class that refuses to be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        where = f"{self.__name__}.{name}"

        def refuse(*_: object, **__: object) -> None:
            raise ModuleNotFoundError(f"{where} is called", name=where)

        return type(name, (), {"__init__": refuse})


@contextlib.contextmanager
def _importable(checkout: Path, unused: Sequence[str]) -> Iterator[None]:
    """Imports come from a checkout first; afterwards the interpreter is as before.

    Checkouts share names, such as `semseg` and `models`: those of one are forgotten before the
    next. What the code prints goes to standard error.
    """
    own = {path.stem for path in checkout.iterdir() if path.is_dir() or path.suffix == ".py"}
    stand_ins = _StandIns(unused)
    before = dict(sys.modules)
    for name in before:
        if name.split(".")[0] in own:
            del sys.modules[name]
    sys.path.insert(0, str(checkout))
    sys.meta_path.append(stand_ins)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.meta_path.remove(stand_ins)
        sys.path.remove(str(checkout))
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] in own or isinstance(module, _StandIn):
                del sys.modules[name]
        sys.modules.update({n: m for n, m in before.items() if n.split(".")[0] in own})
