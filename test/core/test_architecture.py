"""The architecture picture shows the imports of today, and its groups hold every module once."""

import architecture
import import_graph
import pytest
from PIL import Image

PICTURE = import_graph.ROOT / "docs" / "images" / "architecture.png"


def test_the_picture_is_fresh():
    """Refresh it with `make docs`, after a look at the groups in docs/tools/architecture.py."""
    with Image.open(PICTURE) as picture:
        assert picture.info["Imports"] == architecture.digest()


def test_every_module_is_in_one_group():
    members = [f"{one.package}.{name}" for one in architecture.groups() for name in one.members]
    packages = set(import_graph.PACKAGES)
    assert sorted(members) == sorted(set(import_graph.modules()) - packages)


def test_every_job_is_done_by_a_module():
    jobs = {(package, job) for package, jobs in architecture.JOBS.items() for job, _ in jobs}
    assert {(one.package, one.title) for one in architecture.groups()} == jobs


def test_rings_and_libraries_come_from_the_source():
    groups = {one.title: one for one in architecture.groups()}
    network = groups["the paper's network; baselines"]
    assert "model.segrgbx" in network.heavy
    assert groups["pairing by stamp"].heavy == ()
    assert "rclpy" in groups["the live node"].libraries


def test_no_arrow_leads_out_of_the_core():
    groups = architecture.groups()
    for arrow in architecture.arrows():
        ends = groups[arrow.source].package, groups[arrow.target].package
        assert ends[0] == ends[1] or ends[1] == "segrgbx_core"


@pytest.mark.parametrize(
    ("edges", "follows"),
    [
        ({(0, 2)}, False),
        ({(0, 1), (1, 2), (0, 2)}, True),
        ({(0, 1), (1, 0), (0, 2)}, False),
        ({(0, 1), (1, 3), (3, 2), (0, 2)}, True),
    ],
)
def test_arrows_that_follow_from_others(edges, follows):
    assert architecture._follows(0, 2, edges) is follows
