"""The published label space as JSON: what a mask's ids mean, for live node and replay alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import (
        PublishedLabels,  # torch ring: never imported from here
    )


def label_map(labels: PublishedLabels) -> str:
    """The text of the `label_map` topic."""
    classes = [
        {"id": index, "name": name, "rgb": [int(value) for value in rgb]}
        for index, name, rgb in zip(labels.ids, labels.names, labels.palette, strict=True)
    ]
    return json.dumps(
        {
            "label_space": labels.space,
            "hash": labels.hash,
            "unlabeled_id": labels.unlabeled_id,
            "classes": classes,
        }
    )
