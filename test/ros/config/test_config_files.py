"""What is shipped in config/: YAML files that load, the Fast DDS profile, the RViz view."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from segrgbx_core.base.config import from_mapping, leaves, to_plain
from segrgbx_core.base.modality import MODALITIES
from segrgbx_ros.config.node import flatten, node_config, read_node_yaml

CONFIG = Path(__file__).resolve().parents[3] / "config"
NAMES = [*map(str, MODALITIES), "lidar"]


@pytest.mark.parametrize("name", NAMES)
def test_each_modality_has_a_file_that_loads(name):
    config = read_node_yaml(CONFIG / f"{name}.yaml")
    assert config.pairs == (name,)
    assert str(config.pair(name).modality) == name
    assert not config.model.checkpoint, "the user names it"
    assert from_mapping(type(config), to_plain(config)) == config


@pytest.mark.parametrize("name", NAMES)
def test_files_say_only_what_differs_or_must_be_checked(name):
    text = (CONFIG / f"{name}.yaml").read_text()
    given = flatten(yaml.safe_load(text)["/**"]["ros__parameters"])
    same = {"pairs": [name], "sensor.polarization.pattern": [90, 45, 135, 0]}
    defaults = {leaf.name: leaf.default for leaf in leaves(type(node_config(given)))}
    repeated = [key for key, value in given.items() if value == defaults[key] and key not in same]
    assert not repeated
    lines = text.splitlines()
    for key in set(given) - {"pairs"}:
        option = key.rsplit(".", 1)[-1]
        (place,) = [i for i, line in enumerate(lines) if line.strip().startswith(f"{option}:")]
        assert lines[place - 1].strip().startswith("#"), f"{key} has no reason"


def test_the_fast_dds_profile_enlarges_shared_memory_and_keeps_udp():
    space = {"dds": "http://www.eprosima.com"}
    root = ElementTree.parse(CONFIG / "fastdds_large_images.xml").getroot()
    kinds = {
        transport.findtext("dds:type", namespaces=space): transport
        for transport in root.iterfind(".//dds:transport_descriptor", space)
    }
    assert set(kinds) == {"SHM", "UDPv4"}
    size = int(kinds["SHM"].findtext("dds:segment_size", namespaces=space))
    assert size >= 8 * 1280 * 720 * 3, "room for several images on their way"
    participant = root.find(".//dds:participant", space)
    assert participant.get("is_default_profile") == "true"
    used = [
        one.text for one in participant.iterfind(".//dds:userTransports/dds:transport_id", space)
    ]
    named = [t.findtext("dds:transport_id", namespaces=space) for t in kinds.values()]
    assert sorted(used) == sorted(named)


@pytest.mark.parametrize(
    ("file", "pair", "names"),
    [
        (
            "segrgbx.rviz",
            "thermal",
            {"overlay", "mask_color", "confidence", "x/preview", "rgb/image"},
        ),
        ("depth_cloud.rviz", "depth", {"overlay", "x/preview", "points"}),
    ],
)
def test_rviz_shows_what_the_node_publishes(file, pair, names):
    content = yaml.safe_load((CONFIG / file).read_text())
    view = content["Visualization Manager"]
    state = bytes.fromhex(content["Window Geometry"]["QMainWindow State"])
    for item in view["Displays"]:
        if item["Class"].endswith("/Image"):  # a panel that the state does not name gets no place
            assert item["Name"].encode("utf-16-be") in state
            assert item["Name"] in content["Window Geometry"]
    shown = {item["Topic"]["Value"]: item["Topic"] for item in view["Displays"] if "Topic" in item}
    assert set(shown) == {f"/segrgbx/{pair}/{name}" for name in names}
    frame = view["Global Options"]["Fixed Frame"]
    assert frame.endswith("_optical_frame"), "REP 103: frames of images end so"
    for topic, policies in shown.items():
        is_sensor = topic.endswith("rgb/image")
        reliability = "Best Effort" if is_sensor else "Reliable"
        assert policies["Reliability Policy"] == reliability
        assert policies["Durability Policy"] == "Volatile"
