"""The architecture in words: the folders, their modules, and which folder imports which.

Everything is read: folders from import-linter's layers, purposes from docstrings, the rest from
the imports.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache

import import_graph
from importlinter.api import read_configuration

HEAVY = "torch"
"""What parts the two import rings: modules that reach it take seconds to import."""
SHOWN_LIBRARIES = (
    "torch", "rclpy", "rosbags", "onnxruntime", "accelerate", "open_clip", "peft", "embreex",
    "cv2", "numpy", "pydantic",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The modules of one folder.

    Attributes:
        package: which package.
        title: name of the folder.
        purpose: what it is for.
        members: names below the package.
        heavy: which of them reach torch when they are imported.
        libraries: what the members import from outside, the telling ones.
    """

    package: str
    title: str
    purpose: str
    members: tuple[str, ...]
    heavy: tuple[str, ...]
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Arrow:
    """One group imports another.

    Attributes:
        source: index of the group that imports.
        target: index of the group that is imported.
        is_late: True where that happens only when a function runs.
    """

    source: int
    target: int
    is_late: bool


ORDER = ("segrgbx_ros", "segrgbx_core", "training")
"""Packages from left to right."""
COMMANDS = "commands"
_FORMER = ("datasets", "synthetic")
"""Former folders of `training`, kept for the names of their commands."""


@cache
def groups() -> tuple[Group, ...]:
    """Every folder with its modules, by package, in the order of import-linter's layers.

    The modules at the top of `training` are the first group: its commands.
    """
    listed = []
    for package, folders in _folders().items():
        names = [
            name.partition(".")[2]
            for name in import_graph.modules()
            if name.startswith(f"{package}.")
        ]
        if package == "training":
            commands = [n for n in names if "." not in n and n not in (*folders, *_FORMER)]
            listed.append(_group(package, COMMANDS, "parse, call, print", commands))
        for folder in folders:
            members = [n for n in names if f"{n}.".startswith(f"{folder}.") and n != folder]
            purpose = _purpose(f"{package}.{folder}")
            listed.append(_group(package, folder, purpose, members or [folder]))
    return tuple(listed)


@cache
def _folders() -> dict[str, list[str]]:
    """Folders of each package from the top layer down."""
    folders = {}
    for contract in read_configuration()["contracts_options"]:
        if contract["type"] == "layers" and contract["containers"][0] in import_graph.PACKAGES:
            layers = [part.strip() for one in contract["layers"] for part in one.split("|")]
            folders[contract["containers"][0]] = layers
    return {package: folders[package] for package in ORDER}


def _purpose(module: str) -> str:
    """The first sentence of a module's docstring."""
    tree = ast.parse(import_graph.modules()[module].read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0].split(";")[0].rstrip(".")


def _group(package: str, title: str, purpose: str, names: list[str]) -> Group:
    modules = {name: f"{package}.{name}" for name in names}
    heavy = [name for name in names if _reaches_torch(modules[name])]
    used = frozenset[str]().union(*(import_graph.libraries(one) for one in modules.values()))
    return Group(
        package=package,
        title=title,
        purpose=purpose,
        members=tuple(names),
        heavy=tuple(heavy),
        libraries=tuple(one for one in SHOWN_LIBRARIES if one in used),
    )


def _reaches_torch(module: str) -> bool:
    reached = import_graph.reached_modules([module])
    return any(HEAVY in import_graph.libraries(one) for one in reached)


def arrows() -> list[Arrow]:
    """Which group imports which, without those that follow from others."""
    early = _edges(late=False)
    late = _edges(late=True) - early
    known = early | late
    return [
        Arrow(source, target, (source, target) in late)
        for source, target in sorted(known)
        if not _follows(source, target, early if (source, target) in early else known)
    ]


def _edges(late: bool) -> set[tuple[int, int]]:
    imports = import_graph.late_imports if late else import_graph.own_imports
    home = {
        f"{group.package}.{name}": index
        for index, group in enumerate(groups())
        for name in group.members
    }
    return {
        (index, home[other])
        for module, index in home.items()
        for other in imports(module)
        if other in home and home[other] != index
    }


def _follows(source: int, target: int, edges: set[tuple[int, int]]) -> bool:
    """True when a longer way leads there, one that does not come back by the target."""
    seen, waiting = {source}, [b for a, b in edges if a == source and b != target]
    while waiting:
        here = waiting.pop()
        if here == target:
            return True
        if here not in seen:
            seen.add(here)
            waiting.extend(b for a, b in edges if a == here and b != source)
    return False
