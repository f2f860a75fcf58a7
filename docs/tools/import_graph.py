"""Who imports whom in this checkout, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("segrgbx_core", "segrgbx_ros", "training")


def module_name(path: Path) -> str:
    """Dotted name of a file below the checkout's root: `a/b/__init__.py` is `a.b`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module_name(path): path for path in found}


def runnable(name: str) -> str | None:
    """The module that `python -m name` runs: itself, or the `__main__` of a package; or None."""
    for module in (f"{name}.__main__", name):
        path = modules().get(module)
        if path is not None and '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            return module
    return None


def named_imports(path: Path, at_start: bool = False, for_types: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; `from a import b` gives both `a` and `a.b`.

    Args:
        path: the file.
        at_start: True leaves out what importing the file does not import yet, which is what its
            functions import when they run.
        for_types: True counts imports for type checkers only, which never happen, as well.

    Raises:
        ValueError: for a relative import, which this project does not use.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _counted(tree, at_start, for_types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"{path}:{node.lineno}: relative import; name the module in full")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _counted(node: ast.AST, at_start: bool, for_types: bool) -> Iterator[ast.AST]:
    """Statements whose imports count, in the order of the file."""
    for child in ast.iter_child_nodes(node):
        if at_start and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if not for_types and _is_for_types(child):
            for other in child.orelse:
                yield other
                yield from _counted(other, at_start, for_types)
        elif isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield child
            yield from _counted(child, at_start, for_types)


@cache
def own_imports(module: str) -> frozenset[str]:
    """Modules of the three packages that a module imports at its start, packages included."""
    return _own(named_imports(modules()[module], at_start=True)) - {module}


@cache
def late_imports(module: str) -> frozenset[str]:
    """Modules of the three packages that a module imports only when one of its functions runs."""
    return _own(named_imports(modules()[module])) - own_imports(module) - {module}


@cache
def libraries(module: str) -> frozenset[str]:
    """Top names from outside the three packages that a module imports at its start."""
    names = named_imports(modules()[module], at_start=True)
    return frozenset(name.split(".")[0] for name in names) - set(PACKAGES)


def reached_libraries(path: Path) -> frozenset[str]:
    """Top names of everything foreign that a file needs, its late imports included.

    The file's own imports count wherever they stand; of the modules behind them only what they
    import at their start.

    Args:
        path: any Python file, such as a test.
    """
    names = list(named_imports(path))
    behind = reached_modules(_own(names))
    direct = {name.split(".")[0] for name in names} - set(PACKAGES)
    return frozenset(direct.union(*(libraries(module) for module in behind)))


def reached_modules(start: Iterable[str]) -> frozenset[str]:
    """Modules of the three packages that importing `start` imports, itself included."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(own_imports(module))
    return frozenset(found)


def _own(names: Iterable[str]) -> frozenset[str]:
    """Modules among dotted names, with the packages that hold them."""
    known = modules()
    parts = [name.split(".") for name in names]
    prefixes = (".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))
    return frozenset(prefix for prefix in prefixes if prefix in known)
