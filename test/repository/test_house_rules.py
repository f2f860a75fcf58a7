"""Sizes that keep files readable, and tests that can fail."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("segrgbx_core", "segrgbx_ros", "training", "launch", "docs", "test")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = [path for path in SOURCES if path.is_relative_to(ROOT / "test")]
MAX_FILE = 600
MAX_FOLDER = 14
MAX_FUNCTION = 60
TABLES = {"segrgbx_core/labels/tables.py"}
"""Files that hold tables instead of logic, and may be as long as those."""
CHECKS = frozenset({"raises", "warns", "fail"})
"""What pytest checks with; `assert_...` of numpy, torch and mocks comes to these."""


@cache
def functions_of(path):
    """Every function of a file."""
    return functions_in(path.read_text("utf-8"))


def functions_in(text):
    """Every function of a source text, methods and inner ones too."""
    return list(_functions_below(ast.parse(text)))


def _functions_below(node):
    # Walks statements only: expressions are most of a tree and hold no functions.
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _functions_below(child)


def long_functions(functions):
    """Names and lines of functions above the limit."""
    sizes = ((one.name, one.end_lineno - one.lineno + 1) for one in functions)
    return [(name, size) for name, size in sizes if size > MAX_FUNCTION]


@cache
def deeds(function):
    """Last names of what a function calls; an assertion counts as a call of `fail`."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            found.add("fail" if name.startswith("assert_") else name)
        elif isinstance(node, ast.Assert) or _gives_up(node):
            found.add("fail")
    return found


def _gives_up(node):
    """True for what helpers raise that wait or compare."""
    kind = ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ""
    return kind.partition("(")[0] in ("AssertionError", "TimeoutError")


def idle_tests(functions, helpers=()):
    """Names of tests that assert nothing, neither themselves nor by a function they call.

    Args:
        functions: of one file.
        helpers: functions that the file's tests may call besides its own.
    """
    checking = set(CHECKS)
    others = [one for one in (*functions, *helpers) if not one.name.startswith("test")]
    while more := {one.name for one in others if deeds(one) & checking} - checking:
        checking |= more
    tests = [one for one in functions if one.name.startswith("test")]
    return [one.name for one in tests if not deeds(one) & checking]


def test_no_file_is_too_long():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: n for name, n in lines.items() if n > MAX_FILE and name not in TABLES} == {}


def test_no_folder_is_too_full():
    folders = Counter(
        str(path.parent.relative_to(ROOT))
        for path in set(SOURCES) - set(TESTS)
        if path.name != "__init__.py"
    )
    assert {name: n for name, n in folders.items() if n > MAX_FOLDER} == {}


def test_no_function_is_too_long():
    found = {str(path.relative_to(ROOT)): long_functions(functions_of(path)) for path in SOURCES}
    assert {name: what for name, what in found.items() if what} == {}


def test_every_test_asserts_something():
    shared = [path for path in TESTS if not path.name.startswith("test_")]
    helpers = [function for path in shared for function in functions_of(path)]
    idle = {str(path.relative_to(ROOT)): idle_tests(functions_of(path), helpers) for path in TESTS}
    assert {name: tests for name, tests in idle.items() if tests} == {}
