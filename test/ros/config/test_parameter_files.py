"""Parameter files: what they mean, what is refused and in which words; rcl reads them alike."""

import math
import os

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_ros.config.node import read_node_yaml
from segrgbx_ros.config.parameter_files import check_parameter_files, read_parameter_file

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "300"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "0"))
NAMESPACES = ("", "/front", "/front/cam")


def below(text):
    return f"/**:\n  ros__parameters:\n    p: {text}\n"


def section(name, value):
    return f"{name}:\n  ros__parameters: {{p: {value}}}\n"


def values(folder, text, namespace=""):
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_parameter_file(path).values(namespace, "segrgbx")


SCALARS = {
    "1": 1, "-1": -1, "+1": 1, "0x1F": 31, "010": 8, "1.0": 1.0, "6e-5": 6e-5, "1e2": 100.0,
    "1E5": 1e5, ".5": 0.5, "5.": 5.0, "08": 8.0, "9223372036854775808": 2.0**63,
    "-.inf": -math.inf,
    "Infinity": math.inf, "1e400": "1e400", "1_000": "1_000", "0b11": "0b11", "1:30": "1:30",
    "2020-01-01": "2020-01-01", "true": True, "off": False, "y": True, "N": False,
    "tRue": "tRue",
    "''": "", "'1'": "1", '"true"': "true", "!!str 1": "1", "a b # c": "a b", "&x 3": 3,
    "|\n      a\n      b": "a\nb\n", "[1, 2]": [1, 2], "[1e-3, 2.0]": [0.001, 2.0],
    "[yes, no]": [True, False], "['1', b]": ["1", "b"],
    "!!python/tuple\n    - a\n    - b": ["a", "b"],
}  # fmt: skip
"""What each text means, to rcl as well: the test below asks it."""


@pytest.mark.parametrize("text", SCALARS)
def test_values_have_the_types_that_ros_gives_them(tmp_path, text):
    expected, found = SCALARS[text], values(tmp_path, below(text))["p"]
    assert found == expected
    assert type(found) is type(expected)
    assert math.isnan(values(tmp_path, below(".nan"))["p"])


REFUSED = {
    below(""): "line 3: 'p' has no value; leave it out, or write '' for no text",
    below("null"): "line 3: 'p' has no value; leave it out, or write ''",
    below("[a, ~]"): "'p' has no value",
    below("[1.02, 0, -14]"): "'p': ROS takes lists of one type only; write every number",
    below("[a, 1]"): "'p': ROS takes lists of one type only, not of int, str",
    below("[[1], [2]]"): "'p': lists hold plain values only",
    below("[]"): "'p': the list is empty; leave it out",
    below("{}"): "'p' is empty; leave it out",
    below("*x"): "line 3: ROS takes no aliases",
    below("!!int 3"): "tag tag:yaml.org,2002:int means nothing to ROS",
    below("!!python/object/apply:os.system [x]"): "means nothing to ROS",
    below("1e-400"): "is too near to 0",
    below("a: b"): "line 3: is not YAML: mapping values are not allowed",
    below("[" * 50): "lists hold plain values only",
    below("x" * 2**21): "is larger than 1 MiB",
    "/**:\n  ros__parameters:\n    a: {b: 1}\n    a.b: 2\n": "option 'a.b' stands twice",
    "/**:\n  ros__parameters: {a: 1, a: 2}\n": "option 'a' stands twice",
    "/**:\n\tros__parameters: {}\n": "line 2: is not YAML",
    "/**:\n  ros__parameters:\n": "ros__parameters holds no options",
    "/**:\n  sync: 3\n": "line 2: 'sync' stands outside of ros__parameters; put options under",
    "sync: {wait_ms: 5}\n": "line 1: 'wait_ms' stands outside of ros__parameters; put options",
    "- 1\n": "line 1: options stand outside of ros__parameters",
    section("/**", 1) + section("/x", 1) + section("/**", 2): "line 6: node '/..' stands twice",
    section("segrgbx", 1) + section("/segrgbx", 2): "node '/segrgbx' stands twice",
    "ros__parameters: {p: 1}\n": "no name of a node stands above|no node name stands above",
    "seg*:\n  ros__parameters: {p: 1}\n": "'seg.' is no name of a node",
    section("other", "[1, a]") + section("/**", 1): "line 2: 'p': ROS takes lists of one type",
    "a: &a {p: 1}\n/**: {ros__parameters: *a}\n": "line 1: 'p' stands outside",
    section("/**", 1) + "---\n" + section("/**", 2): "line 3: a second document begins",
    "%YAML 1.2\n---\n" + section("/**", 1): "YAML version is not 1.1",
    b"\xff\xfe": "byte 0 is not UTF-8",
    "\n".join(" " * depth + "a:" for depth in range(300)): "more than 64 levels",
    "/**:\n  ros__parameters:\n" + "\n".join(" " * (4 + n) + "a:" for n in range(99)): "more",
}


@pytest.mark.parametrize(("text", "complaint"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_ros_refuses_or_misreads_is_refused_with_its_line(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        values(tmp_path, text)
    assert str(tmp_path / "file.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_file_is_named():
    for path in ("/nowhere.yaml", "/tmp", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_parameter_file(path)


NAMES = {
    "'/**'": NAMESPACES, "segrgbx": ("",), "/segrgbx": ("",), "'/*'": ("",), "'*'": ("",),
    "'/*/segrgbx'": ("/front",), "'/**/segrgbx'": NAMESPACES, "'**'": NAMESPACES,
    "/front/segrgbx": ("/front",), "front/segrgbx": ("/front",), "/front/*": ("/front",),
    "/front/**": ("/front", "/front/cam"), "'/*/*'": ("/front",),
    "'/*/*/segrgbx'": ("/front/cam",),
    "'/**/*'": NAMESPACES, "segrgbx_node": (), "Segrgbx": (), "/front": (),
    "front:\n  segrgbx": ("/front",), "/front:\n  '*'": ("/front",),
}  # fmt: skip
"""Names of nodes, and the namespaces of those whose nodes they name."""


def named(name, value=1):
    *spaces, node = name.split("\n  ")
    inner = f"{node}:\n    ros__parameters: {{p: {value}}}\n"
    return "".join(f"{space}\n  " for space in spaces) + inner


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_sections_go_to_the_nodes_that_ros_gives_them_to(tmp_path, name, namespace):
    found = values(tmp_path, named(name), namespace)
    assert found == ({"p": 1} if namespace in NAMES[name] else None)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("/**",), "root"),
        (("/**", "/front/segrgbx"), "front"),
        (("/front/segrgbx", "/front/*"), "front"),
        (("/front/**",), "front"),
        (("/*/segrgbx",), "one part"),
        (("segrgbx", "/**/segrgbx"), "root"),
        (("segrgbx", "/rear/other"), "root"),
        (("/front/segrgbx", "/rear/segrgbx"), None),
        (("segrgbx", "/front/segrgbx"), None),
    ],
)
def test_replay_reads_for_the_one_namespace_that_a_file_speaks_of(tmp_path, names, chosen):
    path = tmp_path / "file.yaml"
    times = range(5, 5 + len(names))
    path.write_text(
        "".join(
            f"{name}:\n  ros__parameters: {{sync.wait_ms: {time}.0}}\n"
            for name, time in zip(names, times, strict=True)
        )
    )
    if chosen is None:
        with pytest.raises(ConfigError, match=r"for several namespaces .*; say which"):
            read_node_yaml(path)
    else:
        fitting = [time for name, time in zip(names, times, strict=True) if "other" not in name]
        assert read_node_yaml(path).sync.wait_ms == fitting[-1]
    if "/front/segrgbx" in names:
        expected = max(
            time for name, time in zip(names, times, strict=True) if name.startswith(("/f", "/**"))
        )
        assert read_node_yaml(path, namespace="/front").sync.wait_ms == expected
        assert read_node_yaml(path, namespace="front/").sync.wait_ms == expected


def test_a_file_for_other_nodes_says_so(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(section("/front/segrgbx", 1) + section("realsense", 2))
    with pytest.raises(ConfigError, match="nothing in it is for 'segrgbx' in namespace '/rear'"):
        read_node_yaml(path, namespace="rear")
    path.write_text(section("realsense", 2))
    with pytest.raises(ConfigError, match="nothing in it is for 'segrgbx'; put 'ros__parameters'"):
        read_node_yaml(path)


def test_every_file_of_a_ros_command_line_is_checked(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(below("1"))
    bad.write_text(below("[1, 2.0]"))
    words = ["node", "--ros-args", "--params-file", str(good)]
    check_parameter_files([*words, "--", "--params-file", "/no/file/of/ros"])
    check_parameter_files(["node", "--params-file", str(bad)])
    with pytest.raises(ConfigError, match=r"bad\.yaml, line 3: 'p': ROS takes lists of one type"):
        check_parameter_files([*words, "-p", "a:=b", "--params-file", str(bad)])


# ---- against rcl


def rcl_values(path, namespace):
    """What rcl hands to a node: values by name, None where it refuses the file."""
    import rclpy

    context = rclpy.Context()
    try:
        rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
        node = rclpy.create_node(
            "segrgbx",
            context=context,
            namespace=namespace or None,
            automatically_declare_parameters_from_overrides=True,
            start_parameter_services=False,
            enable_rosout=False,
        )
        found = {name: one.value for name, one in node.get_parameters_by_prefix("").items()}
        node.destroy_node()
    except Exception:  # RCLError, and ValueError for a parameter without a value
        return None
    finally:
        context.try_shutdown()
    return {name: found[name] for name in found if name not in ("use_sim_time", OWN)}


OWN = "start_type_description_service"


def plain(value):
    if isinstance(value, (bool, int, str)):
        return type(value).__name__, value
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else value
    return [plain(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]


def assert_agrees(path, text, namespace):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        ours = read_parameter_file(path).values(namespace, "segrgbx") or {}
    except ConfigError:
        return False  # the node refuses it, too, because it asks this reader first
    theirs = rcl_values(path, namespace)
    assert theirs is not None, f"rcl refuses {text!r}"
    found = [{name: plain(one) for name, one in each.items()} for each in (ours, theirs)]
    assert found[0] == found[1], repr(text)
    return True


@pytest.fixture
def file(tmp_path, monkeypatch):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    return tmp_path / "file.yaml"


@pytest.mark.ros
def test_rcl_gives_the_same_values(file):
    for text in SCALARS:
        assert assert_agrees(file, below(text), "")
    for name in NAMES:
        for namespace in NAMESPACES:
            assert assert_agrees(file, named(name), namespace)
    for first in ("/**", "'/*'", "segrgbx", "/**/segrgbx"):
        for second in {"/**", "/segrgbx", "'*'", "'/**/*'"} - {first, f"/{first}"}:
            if first.strip("/'") != second.strip("/'"):
                assert assert_agrees(file, named(first) + named(second, 2), "")


WORDS = [
    *SCALARS, "null", "~", "nan", "1e-300", "1e-310", "0x1p4", "0x1.8", "1e", "e1", "--1", "1.2.3",
    "0o7", "'a''b'", '"\\u00e9"', "-", "=", "<<", "a:b", "[1, 2.0]", "[]", "{a: 1}", "{a: {b: x}}",
]  # fmt: skip


NOISE = b" :[]{},'\"#&*!|>%-\n\t.x0"


def some_file(rng):
    """Sections with values, then some bytes of it replaced, doubled or cut."""
    text = ""
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(list(NAMES)))
        if "\n" in name:
            continue
        text += f"{name}:\n  ros__parameters:\n"
        for key in rng.choice(["a", "b", "c.d", "e"], rng.integers(1, 4), replace=False):
            text += f"    {key}: {rng.choice(np.array(WORDS, object))}\n"
    data = bytearray(text.encode())
    for _ in range(rng.integers(0, 3)):
        place = int(rng.integers(0, len(data) + 1))
        kind = rng.integers(0, 3)
        if kind == 0:
            data[place : place + 1] = rng.choice(list(NOISE), 1).tolist()
        elif kind == 1:
            data[place:place] = data[place : place + int(rng.integers(1, 9))]
        else:
            del data[place : place + int(rng.integers(1, 4))]
    return bytes(data).replace(b"\0", b"")


@pytest.mark.ros
def test_rcl_agrees_on_mutated_files(file):
    accepted = 0
    for case in range(CASES):
        rng = np.random.default_rng([SEED, case])
        namespace = str(rng.choice(NAMESPACES))
        accepted += assert_agrees(file, some_file(rng), namespace)
    assert accepted > CASES // 20
