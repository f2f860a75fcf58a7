"""Says what the ids of a mask mean: `label_legend --checkpoint FILE --out legend.png`.

Prints id, name and colour of every class, as the node would publish them, and draws them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text, user_path
from segrgbx_core.base.images import write_image
from segrgbx_core.labels import overlay
from segrgbx_core.labels.label_space import (
    UNIFIED,
    LabelSpace,
    PublishedLabels,
    unified_label_space,
)
from segrgbx_ros.messages.labels import legend_text, read_label_file, read_palette_file


def labels_of(options: argparse.Namespace) -> PublishedLabels:
    """The classes that a node with these options would publish.

    Args:
        options: as `main` parses them.

    Raises:
        SegrgbxError: when a file cannot be read or does not fit.
    """
    space = unified_label_space()
    if options.checkpoint:
        from segrgbx_core.runtime.checkpoint import read_contract  # noqa: PLC0415  torch takes seconds

        space = LabelSpace.from_dict(read_contract(options.checkpoint).label_space)
    table = space if options.space == UNIFIED else space.native(options.space)
    labels = PublishedLabels(table.names, table.palette, space=options.space, hash=space.hash)
    if options.file:
        labels, _ = read_label_file(options.file, labels)
    if options.palette_file:
        labels = read_palette_file(options.palette_file, labels)
    return labels


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="label_legend", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=path_text, help="whose label space it is (default: the unified one)")
    add("--space", default=UNIFIED, help="as label.space (default: %(default)s)")
    add("--file", type=path_text, help="as label.file")
    add("--palette-file", type=path_text, help="as label.palette_file")
    add("--out", type=user_path, help="also draw the legend into this picture")
    options = parser.parse_args(arguments)
    labels = labels_of(options)
    if options.out:
        names = dict(zip(labels.ids, labels.names, strict=True))
        write_image(options.out, overlay.framed(overlay.legend(names, labels.palette_array())))
    sys.stdout.write(legend_text(labels) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
