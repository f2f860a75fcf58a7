"""Documents name only what exists: files, headings, topics, options, commands, tests."""

import subprocess
from pathlib import Path

import documents
import import_graph
import pytest
import source_facts
import yaml

from segrgbx_core.base.config import leaves
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES
from segrgbx_ros.config.node import NODE_NAME, NodeConfig, PairConfig, Stream, node_config

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / ".git").exists():
    reason = "only a git checkout knows which documents are its own"
    pytest.skip(reason, allow_module_level=True)


def _tracked(*patterns):
    command = ["git", "ls-files", "--cached", "--", *patterns]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in run.stdout.splitlines() if (ROOT / name).exists()]


def _as_code(lines):
    """Lines of another kind of file, as Markdown in code type."""
    return "".join(f"`{line.strip().replace('`', ' ')}`\n" for line in lines if line.strip())


PAGES = _tracked("*.md")
NODE_PAGE = (ROOT / "docs" / "node.md").read_text("utf-8")
WEIGHT_TABLES = ("Outside weights", "Released weights")
"""Sections whose dotted names are those of tensors."""

TOPICS = {stream.value for stream in Stream} | source_facts.output_topics()
PAIRS = ("<p>", *map(str, MODALITIES))
NODE_OPTIONS = {leaf.name for leaf in leaves(NodeConfig)} | {
    leaf.name for pair in PAIRS for leaf in leaves(PairConfig, f"{pair}.")
}
OPTIONS = NODE_OPTIONS | source_facts.option_names()
SECTIONS = source_facts.option_sections() | set(PAIRS)
FOLDERS = {name.partition("/")[0] for name in _tracked() if "/" in name}
# rclpy's own parameters may stand before := as well.
ARGUMENTS = source_facts.launch_arguments() | {"use_sim_time"}


def _dead_links(text, path=ROOT / "README.md"):
    return documents.dead_links(path, text)


def _unknown_options(text):
    return documents.unknown_options(
        documents.without_sections(text, WEIGHT_TABLES), SECTIONS, OPTIONS
    )


def _unknown_make_words(text):
    return documents.unknown_make_words(
        text, source_facts.make_targets(), source_facts.make_variables()
    )


def _unknown_tests(text):
    have = {path.name for path in (ROOT / "test").rglob("test_*.py")}
    return sorted(documents.mentioned_tests(text) - have)


def _wrong_yaml(text):
    """Blocks of YAML that node or training would refuse, as what is wrong with them."""
    wrong = []
    for language, body in documents.fences(text):
        data = yaml.safe_load(body) if language == "yaml" else None
        if data and (wrapped := data.get("/**") or data.get(NODE_NAME)):
            wrong += _refused(wrapped["ros__parameters"])
        elif data and set(data) <= set(NodeConfig.model_fields):
            wrong += _refused(data)
        elif data and "ros__parameters" not in body:
            names = (name.partition(".options.")[0] for name in documents.flat_names(data))
            # What a data set splits into is a mapping, as its options are.
            names = ("splits" if name.startswith("splits.") else name for name in names)
            wrong += [name for name in names if name not in OPTIONS]
    return wrong


def _refused(options):
    try:
        node_config(options)
    except ConfigError as error:
        return [str(error)]
    return []


FINDERS = {
    "topics": lambda text: documents.unknown_topics(text, TOPICS),
    "options": _unknown_options,
    "yaml": _wrong_yaml,
    "launch arguments": lambda text: documents.unknown_arguments(text, ARGUMENTS),
    "make": _unknown_make_words,
    "modules": lambda text: documents.unknown_modules(
        text, import_graph.PACKAGES, import_graph.runnable
    ),
    "executables": lambda text: documents.unknown_executables(text, source_facts.executables()),
    "flags": lambda text: documents.unknown_flags(text, source_facts.flags_of),
    "paths": lambda text: documents.unknown_paths(text, ROOT, FOLDERS),
    "tests": _unknown_tests,
}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    assert _dead_links(path.read_text("utf-8"), path) == []


@pytest.mark.parametrize("kind", FINDERS)
def test_pages_name_only_what_exists(kind):
    found = {name: FINDERS[kind]((ROOT / name).read_text("utf-8")) for name in PAGES}
    assert {name: what for name, what in found.items() if what} == {}


def test_comments_of_shipped_files_name_only_what_exists():
    for name in _tracked("config/*.yaml", "config/**/*.yaml", "config/*.xml"):
        lines = (ROOT / name).read_text("utf-8").splitlines()
        text = _as_code(line.partition("#")[2] for line in lines)
        for kind in ("topics", "options", "paths", "modules"):
            assert FINDERS[kind](text) == [], f"{name}: {kind}"


def test_workflows_call_existing_targets():
    for name in _tracked(".ci", ".github", ".pre-commit-config.yaml"):
        text = _as_code((ROOT / name).read_text("utf-8").splitlines())
        assert _unknown_make_words(text) == [], name


def test_the_topic_table_is_that_of_the_node():
    table = set(documents.topic_rows(NODE_PAGE))
    assert table == TOPICS | source_facts.absolute_topics()


def test_named_services_exist():
    named = {one for one in documents.code(NODE_PAGE) if one.startswith("~/")}
    assert named == source_facts.services()


def test_every_page_can_be_reached_from_the_front_page():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            links = documents.links(path.read_text("utf-8"))
            targets = ((path.parent / link.partition("#")[0]).resolve() for link in links)
            waiting += [one for one in targets if one.suffix == ".md" and one.is_file()]
    lost = {ROOT / name for name in PAGES if not name.startswith("docs/decisions/")} - reached
    assert lost == set()


def test_facts_are_found_at_all():
    """An empty fact would let some finders pass anything, and others nothing."""
    assert {"mask", "points", "label_info", "mask_small"} <= source_facts.output_topics()
    assert source_facts.absolute_topics() == {"/diagnostics"}
    assert "~/reset" in source_facts.services()
    assert {"rgb_topic", "checkpoint"} <= source_facts.launch_arguments()
    assert {"demo", "quick"} <= source_facts.make_targets()
    assert "OUT" in source_facts.make_variables()
    assert "segrgbx-node" in source_facts.executables()
    assert {"--config", "--out"} <= source_facts.flags_of("segrgbx-replay")
    assert {"model.architecture", "model.backbone.depths"} <= source_facts.option_names()
    assert len(PAGES) > 10
