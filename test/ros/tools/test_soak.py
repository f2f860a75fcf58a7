"""The long-run and overhead measurements, for some seconds."""

import json

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from segrgbx_ros.tools import overhead, soak  # noqa: E402
from segrgbx_ros.tools.load_generator import ReceivedMask  # noqa: E402


def test_every_frame_of_a_short_run_is_accounted_for(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(soak, "TRIAL_S", 1.0)
    monkeypatch.setattr(soak, "SETTLE_S", 1.5)
    arguments = ["--minutes", "0.05", "--rate", "8", "--size", "64x48", "--out", str(tmp_path)]
    assert soak.main([*arguments, "--checkpoint", checkpoint]) == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    counts = found["counts"]
    assert all(counts["checks"].values()), counts
    assert counts["published"] > 0
    assert found["memory"]["last_mb"] > 50
    assert found["ages_ms"]["p50"] > 0
    assert found["newest_wins"]["masks"] > 1


def test_faulty_drivers_of_two_pairs_cost_nothing_but_their_own_frames(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(soak, "SETTLE_S", 1.5)
    arguments = ["--chaos", "--minutes", "0.15", "--rate", "6", "--out", str(tmp_path)]
    assert soak.main([*arguments, "--checkpoint", checkpoint]) == 0, capsys.readouterr().out
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert all(found["counts"]["checks"].values()), found["counts"]
    assert min(found["answered_after"].values()) > 0
    assert len(found["faults"]) > 10
    assert sum(found["counts"]["failed"].values()) > 0


def test_a_leak_is_called_one():
    samples = [(float(second), 400 + second / 20) for second in range(0, 300, 5)]
    found = soak._memory(samples)
    assert found["slope_mb_per_min"] == pytest.approx(3.0)
    assert found["leaks"]
    filling = [(second, 400 + min(second, 150) / 10) for second, _ in samples]
    assert soak._memory(filling)["leaks"]
    assert not soak._memory(filling, warm_up_s=150)["leaks"], "pools had filled by then"
    flat = [(second, 400.0) for second, _ in samples]
    assert not soak._memory(flat)["leaks"]


def test_a_node_that_answers_old_frames_is_found_out():
    second = 1_000_000_000
    sent = [index * second for index in range(20)]
    counts = {"lost_in_transport": 0, "dropped": {"too_far": 1}}

    def judged(*answers):
        masks = [
            ReceivedMask(int(stamp * second), int(heard * second)) for stamp, heard in answers
        ]
        return soak._newest_wins(sent, masks, counts)

    assert judged((0, 2.5), (2, 4.5), (4, 6.5), (7, 7.5))["older_than_allowed"] == 0
    in_a_queue = judged((0, 2.5), (1, 4.5), (2, 6.5), (3, 8.5))
    assert in_a_queue["older_than_allowed"] == 3
    assert in_a_queue["frames_missed_at_most"] == 3
    assert not in_a_queue["kept"]
    assert judged((0, 2.5), (1, 4.5), (4, 6.5))["kept"], "a frame without X excuses one"


def test_the_nodes_own_time_is_measured(capsys):
    assert overhead.main(["--size", "64x48", "--frames", "10", "--rate", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers"] > 0
    assert 0 < found["node_ms"]["p50"] < 1000
    assert found["model_ms"]["p50"] == 0
    assert 0 < found["cpu_ms_per_frame"] < 5000
