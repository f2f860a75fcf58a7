"""A lifecycle manager brings the node up and down over real DDS, with the shipped parameters.

A stand-in for Nav2's manager, which is not in the wheels of ROS: the same services in the same
order, with the same deadlines. The bond is left out, as `bond_timeout: 0.0` asks.
"""

from pathlib import Path

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from node_process import node  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
CONFIG = yaml.safe_load((ROOT / "config" / "nav2_lifecycle.yaml").read_text())
SHUT_DOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN

REACHES = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    SHUT_DOWN: State.PRIMARY_STATE_FINALIZED,
}


class Manager:
    """Changes states as Nav2's manager does: a transition, then the state it must lead to."""

    def __init__(self, parameters, domain):
        self.timeout_s = parameters["service_timeout"]
        (name,) = parameters["node_names"]
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("lifecycle_manager_segrgbx", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.change = self.node.create_client(ChangeState, f"{name}/change_state")
        self.state = self.node.create_client(GetState, f"{name}/get_state")

    def call(self, client, request):
        future = client.call_async(request)
        self.executor.spin_until_future_complete(future, timeout_sec=self.timeout_s)
        assert future.done(), f"{client.srv_name}: no answer within {self.timeout_s} s"
        return future.result()

    def to(self, transition):
        request = ChangeState.Request()
        request.transition.id = transition
        assert self.call(self.change, request).success
        found = self.call(self.state, GetState.Request()).current_state.id
        assert found == REACHES[transition]

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def test_a_manager_brings_the_node_up_and_down(run, checkpoint, environment):
    parameters = CONFIG["lifecycle_manager_segrgbx"]["ros__parameters"]
    assert parameters["autostart"] is True, "of the manager; the node's own is false"
    assert parameters["bond_timeout"] == 0.0
    options = ("autostart:=false", f"model.checkpoint:={checkpoint}")
    words = [word for option in options for word in ("-p", option)]
    process = run(*node("-r", "__ns:=/segrgbx", *words))
    manager = Manager(parameters, int(environment["ROS_DOMAIN_ID"]))
    try:
        assert manager.change.wait_for_service(timeout_sec=60)
        for transition in ("CONFIGURE", "ACTIVATE", "DEACTIVATE", "ACTIVATE", "DEACTIVATE"):
            manager.to(getattr(Transition, f"TRANSITION_{transition}"))
        manager.to(Transition.TRANSITION_CLEANUP)
        manager.to(SHUT_DOWN)
    finally:
        manager.close()
    assert "first mask" not in process.output
    assert "Traceback" not in process.output
