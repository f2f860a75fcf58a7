"""Options as ROS parameters: one walk declares them, one strict reader takes them back."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from segrgbx_core.base.config import Config, Leaf, from_mapping, leaves, to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_ros.config.node import NodeConfig, flatten, is_foreign, node_config

_INT64_MAX = 2**63 - 1


def read_overrides(node: Node) -> NodeConfig:
    """The tree that parameter files and `-p` ask for; strict like the YAML reader.

    Args:
        node: created with `automatically_declare_parameters_from_overrides`.

    Raises:
        ConfigError: for the first parameter that is unknown, of the wrong type or out of range.
    """
    return node_config(given_values(node), where=f"node '{node.get_name()}'")


def given_values(node: Node) -> dict[str, Any]:
    """Plain values by dotted name that parameter files and `-p` ask for, rclpy's own left out."""
    given = node.get_parameters_by_prefix("")
    return {
        name: _plain(parameter)
        for name, parameter in given.items()
        if not is_foreign(name) and parameter.type_ is not Parameter.Type.NOT_SET
    }


def declare(node: Node, config: Config) -> None:
    """Declares every option with value, description and range; read-only unless dynamic."""
    values = flatten(to_plain(config))
    for leaf in leaves(type(config)):
        if node.has_parameter(leaf.name):
            node.undeclare_parameter(leaf.name)
        value = values.get(leaf.name, leaf.default)
        if (
            value is None or value == []
        ):  # ROS parameters know neither; the option stays a YAML matter
            continue
        node.declare_parameter(leaf.name, value, descriptor(leaf), ignore_override=True)


def descriptor(leaf: Leaf) -> ParameterDescriptor:
    """What `ros2 param describe` shows of an option."""
    text = leaf.doc[:1].upper() + leaf.doc[1:] + (f" [{leaf.unit}]" if leaf.unit else "")
    described = ParameterDescriptor(name=leaf.name, description=text, read_only=not leaf.dynamic)
    if leaf.choices:
        described.additional_constraints = f"one of: {', '.join(leaf.choices)}"
    if leaf.low is None and leaf.high is None:
        return described
    if isinstance(leaf.default, int) and not isinstance(leaf.default, bool):
        low = -_INT64_MAX if leaf.low is None else int(leaf.low)
        high = _INT64_MAX if leaf.high is None else int(leaf.high)
        described.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif isinstance(leaf.default, float):
        low_f = -sys.float_info.max if leaf.low is None else float(leaf.low)
        high_f = sys.float_info.max if leaf.high is None else float(leaf.high)
        described.floating_point_range = [
            FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)
        ]
    return described


def changed(config: NodeConfig, parameters: Iterable[Parameter]) -> NodeConfig:
    """The tree after a change at run time.

    Raises:
        ConfigError: when a change is refused.
    """
    tree = to_plain(config)
    for parameter in parameters:
        if is_foreign(parameter.name):
            continue
        if parameter.name not in _dynamic(type(config)):
            raise ConfigError(f"{parameter.name}: cannot change while the node runs; restart it")
        *sections, last = parameter.name.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = _plain(parameter)
    return from_mapping(type(config), tree)


@cache
def _dynamic(kind: type[Config]) -> frozenset[str]:
    """Names of the options that may change at run time."""
    return frozenset(leaf.name for leaf in leaves(kind) if leaf.dynamic)


def _plain(parameter: Parameter) -> Any:
    value = parameter.value
    return list(value) if isinstance(value, (array, tuple)) else value
