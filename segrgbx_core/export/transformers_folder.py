"""What a folder that transformers wrote says beside its weights: shape, classes, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import CheckpointError, shortened
from segrgbx_core.model.backbone import STRIDES, BackboneConfig
from segrgbx_core.model.tensor_files import MAX_JSON, parse_json_object, read_file

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TransformersFolder:
    """A model's folder.

    Attributes:
        path: the folder.
        config: its `config.json`.
        preprocessor: its `preprocessor_config.json`, empty where there is none.
    """

    path: Path
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]

    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the last layer.

        Raises:
            CheckpointError: when `id2label` does not name every class from 0.
        """
        table = self.config.get("id2label")
        count = len(table) if isinstance(table, Mapping) else 0
        names = tuple(str(table[str(i)]) for i in range(count) if str(i) in table) if table else ()
        if not count or len(names) != count:
            raise CheckpointError(
                f"{self.path / CONFIG}: id2label does not name every class from 0; "
                "name them by --classes"
            )
        return names

    def check_segformer(self, backbone: BackboneConfig) -> None:
        """Checks what shapes of weights do not show.

        Raises:
            CheckpointError: naming the first option that differs from the encoder's.
        """
        expected: dict[str, Any] = {
            "model_type": "segformer",
            "num_attention_heads": list(backbone.num_heads),
            "sr_ratios": list(backbone.sr_ratios),
            "strides": [STRIDES[0], 2, 2, 2],
            "hidden_act": "gelu",
            "reshape_last_stage": True,
        }
        for key, value in expected.items():
            if self.config.get(key, value) != value:
                raise CheckpointError(
                    f"{self.path / CONFIG}: {key} is {shortened(str(self.config[key]))}; "
                    f"this size needs {value}"
                )
        for key, values in (("image_mean", _MEAN), ("image_std", _STD)):
            given = self.preprocessor.get(key, list(values))
            if given != list(values):
                raise CheckpointError(
                    f"{self.path / PREPROCESSOR}: {key} is {shortened(str(given))}; the network "
                    f"normalises by ImageNet's {list(values)}"
                )


def transformers_folder(path: Path | str) -> TransformersFolder | None:
    """The folder at `path`; None where that is no folder with a `config.json`.

    Raises:
        CheckpointError: when one of its texts is damaged.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return None
    texts = {}
    for name in (CONFIG, PREPROCESSOR):
        file = folder / name
        texts[name] = (
            parse_json_object(read_file(file, MAX_JSON)[0], str(file)) if file.is_file() else {}
        )
    return TransformersFolder(folder, texts[CONFIG], texts[PREPROCESSOR])
