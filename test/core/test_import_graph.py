"""The import graph that draws the architecture and picks light tests."""

import import_graph
import pytest

ROOT = import_graph.ROOT


@pytest.mark.parametrize(
    ("text", "at_start", "everywhere"),
    [
        ("import a.b", {"a.b"}, {"a.b"}),
        ("from a import b", {"a", "a.b"}, {"a", "a.b"}),
        ("try:\n    import a\nexcept ImportError:\n    a = None", {"a"}, {"a"}),
        ("class C:\n    import a", {"a"}, {"a"}),
        ("def f():\n    import a", set(), {"a"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}, {"b"}),
    ],
)
def test_imports_of_a_file(tmp_path, text, at_start, everywhere):
    path = tmp_path / "one.py"
    path.write_text(text)
    assert set(import_graph.named_imports(path, at_start=True)) == at_start
    assert set(import_graph.named_imports(path)) == everywhere


def test_imports_for_types_count_where_asked(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    import c")
    assert list(import_graph.named_imports(path, for_types=True)) == ["a", "b", "c"]
    assert list(import_graph.named_imports(path)) == ["b", "c"]


def test_relative_imports_are_refused(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("from . import two")
    with pytest.raises(ValueError, match="relative import"):
        list(import_graph.named_imports(path))


def test_modules_are_those_of_the_three_packages():
    modules = import_graph.modules()
    assert modules["segrgbx_core.model"] == ROOT / "segrgbx_core" / "model" / "__init__.py"
    assert {name.split(".")[0] for name in modules} == set(import_graph.PACKAGES)


def test_what_a_module_reaches():
    reached = import_graph.reached_modules(["segrgbx_ros.pairing.pipeline"])
    assert {"segrgbx_ros.messages.images", "segrgbx_core.sync.aligner", "segrgbx_core"} <= reached
    assert "segrgbx_ros.node.node" not in reached


@pytest.mark.parametrize(
    ("test", "library", "is_reached"),
    [
        ("core/test_align.py", "torch", False),
        ("core/test_align.py", "numpy", True),
        ("core/test_batch.py", "torch", True),  # by the module under test
        ("ros/test_node_process.py", "torch", True),  # inside a function
        ("training/test_lora_pool.py", "peft", True),
    ],
)
def test_what_a_test_reaches(test, library, is_reached):
    reached = import_graph.reached_libraries(ROOT / "test" / test)
    assert (library in reached) is is_reached
