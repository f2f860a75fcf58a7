"""Inputs that arrive by whatever transport there is."""

from segrgbx_ros.node.transports import TransportChoice

TOPICS = {"raw": "/cam", "compressed": "/cam/compressed"}
S = 10**9


def nobody(_topic):
    return False


def everybody(_topic):
    return True


def test_each_moment_is_taken_once_and_the_preferred_transport_stays():
    choice = TransportChoice(TOPICS, settle_s=0.5)
    assert choice.takes("compressed", 1, 0 * S + 1, nobody)
    assert not choice.takes("raw", 1, 0 * S + 2, nobody), "the same moment again"
    assert choice.takes("raw", 2, 0 * S + 3, nobody)
    assert not choice.takes("compressed", 3, 0 * S + 4, everybody), "raw will bring it"
    assert not choice.settle(S // 4)
    assert choice.settle(S)
    assert (choice.chosen, choice.topic) == ("raw", "/cam")


def test_a_transport_that_only_is_published_loses_to_one_that_arrives():
    choice = TransportChoice(TOPICS, settle_s=0.5)
    assert not choice.takes("compressed", 1, 1, everybody)
    assert choice.settle(S)
    assert choice.chosen == "compressed"
    assert choice.takes("compressed", 2, 2 * S, everybody)
    choice.reopen()
    assert choice.is_open


def test_nothing_is_chosen_before_something_comes():
    choice = TransportChoice(TOPICS)
    assert not choice.settle(100 * S)
    assert TransportChoice({"raw": "/cam"}).chosen == "raw"
