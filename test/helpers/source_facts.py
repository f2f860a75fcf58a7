"""What really exists in the tree, read from the source: topics, options, targets, commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import import_graph

ROOT = Path(__file__).resolve().parents[2]


def _tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text("utf-8"))


def _strings(node: ast.AST) -> Iterator[str]:
    return (
        one.value
        for one in ast.walk(node)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


def make_targets() -> set[str]:
    """Targets of the Makefile."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def make_variables() -> set[str]:
    """Variables of the Makefile that a command line may set."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))


@cache
def executables() -> dict[str, str]:
    """Module by executable, as setup.py declares them."""
    found = re.findall(r'"(segrgbx-\w+) = ([\w.]+):main"', (ROOT / "setup.py").read_text("utf-8"))
    return dict(found)


def launch_arguments() -> set[str]:
    """Names that a launch file declares as arguments."""
    found: set[str] = set()
    for path in (ROOT / "launch").glob("*.launch.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS":
                assert isinstance(node.value, ast.Dict)
                found |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument":
                found |= set(list(_strings(node))[:1] if node.args else ())
    return found


def output_topics() -> set[str]:
    """What a pair publishes, below its name."""
    found: set[str] = set()
    for node in ast.walk(_tree("segrgbx_ros/node/outputs.py")):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if ast.unparse(target) == "IMAGES":
                found |= set(_strings(node.value))
            elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == "kinds":
                found |= set(_strings(target.slice))
        elif isinstance(node, ast.AugAssign) and ast.unparse(node.target) == "kinds":
            assert isinstance(node.value, ast.Dict)
            found |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "self._latch":
            found |= set(_strings(node.args[0]))
    return found


def services() -> set[str]:
    """Private services of the node, as `~/name`."""
    calls = (
        node for node in ast.walk(_tree("segrgbx_ros/node/node.py")) if isinstance(node, ast.Call)
    )
    creates = (one for one in calls if ast.unparse(one.func) == "self.create_service")
    return {text for one in creates for text in _strings(one) if text.startswith("~/")}


def absolute_topics() -> set[str]:
    """Topics of the node whose names do not depend on its own."""
    calls = (
        n
        for n in ast.walk(_tree("segrgbx_ros/node/health/reporter.py"))
        if isinstance(n, ast.Call)
    )
    creates = (one for one in calls if ast.unparse(one.func).endswith("create_publisher"))
    return {text for one in creates for text in _strings(one) if text.startswith("/")}


@cache
def _config_classes() -> dict[str, tuple[list[str], dict[str, ast.expr]]]:
    """Bases and annotated fields by class name, for every option tree in the source."""
    found = {}
    for path in import_graph.modules().values():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                fields = {
                    item.target.id: item.annotation
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                }
                found[node.name] = ([ast.unparse(base) for base in node.bases], fields)
    wanted = {"Config"}
    while more := {n for n, (bases, _) in found.items() if wanted & {*bases} and n not in wanted}:
        wanted |= more
    return {name: found[name] for name in wanted}


@cache
def _aliases() -> dict[str, set[str]]:
    """Names of types that stand for a choice among option trees."""
    trees = set(_config_classes())
    found = {}
    for path in import_graph.modules().values():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                assert isinstance(node.target, ast.Name)
                assert node.value is not None
                members = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)} & trees
                found[node.target.id] = members
    return found


def _trees_of(annotation: ast.expr) -> set[str]:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    aliased = (_aliases().get(name, set()) for name in names)
    return (names & set(_config_classes())).union(*aliased)


def option_sections() -> set[str]:
    """Names of fields that hold an option tree themselves."""
    return {
        name
        for _, fields in _config_classes().values()
        for name, annotation in fields.items()
        if _trees_of(annotation)
    }


def option_names() -> set[str]:
    """Dotted names of all options of all trees, from any tree on; a section is a name too."""
    found: set[str] = set()
    for tree in _config_classes():
        found |= set(_names(tree, ""))
    return found


def _names(tree: str, prefix: str) -> Iterator[str]:
    bases, fields = _config_classes()[tree]
    for base in bases:
        if base in _config_classes() and base != "Config":
            yield from _names(base, prefix)
    for name, annotation in fields.items():
        yield f"{prefix}{name}"
        for inner in _trees_of(annotation):
            yield from _names(inner, f"{prefix}{name}.")


@cache
def flags_of(command: str) -> frozenset[str]:
    """Options that a command's parser knows; none for what is no command of ours.

    A command may leave part of its parser to modules that it imports: their options count.

    Args:
        command: an executable or a dotted module.
    """
    module = import_graph.runnable(executables().get(command, command))
    if module is None:
        return frozenset()
    near = {module, *import_graph.own_imports(module)}
    return frozenset({"--help"}.union(*(_flags(one) for one in near)))


@cache
def _flags(module: str) -> set[str]:
    tree = ast.parse(import_graph.modules()[module].read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    adds = (one for one in calls if re.search(r"\badd(_argument)?$", ast.unparse(one.func)))
    found = {text for one in adds for argument in one.args for text in _strings(argument)}
    if any(ast.unparse(one.func) == "add_set_option" for one in calls):
        found.add("--set")
    return {text for text in found if text.startswith("--")}
