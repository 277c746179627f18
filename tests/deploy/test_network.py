"""The packet filter, in a network of the test's own: what browsers get through to, what
arrives outside, and what others still may."""

from __future__ import annotations

from typing import Any

import pytest

import inside
import network


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not inside.is_possible():
        pytest.fail("this needs root, for namespaces of its own")
    return inside.run("network", tmp_path_factory.mktemp("network"))


def ways(addresses: list[str]) -> set[str]:
    return {f"{it} {how}" for it in addresses for how in ("tcp 80", "udp 80", "tcp 53")}


RESOLVER = {f"{network.RESOLVER} {kind} 53" for kind in ("tcp", "udp")}


def test_without_rules_everything_is_open(said: dict[str, Any]) -> None:
    """Or the rest would show nothing."""
    reachable = ways(network.INTERNET + network.METADATA + network.PRIVATE + network.OWN)
    assert set(said["open"]["through"]) >= reachable
    assert set(network.MANY) <= set(said["open"]["arrived"])


@pytest.mark.parametrize("who", ["browser", "browser's group"])
def test_a_browser_gets_to_the_internet_and_to_nothing_else(said: dict[str, Any], who: str) -> None:
    assert set(said[who]["through"]) == ways(network.INTERNET) | RESOLVER
    # Not one packet left for anywhere else.
    assert set(said[who]["arrived"]) == set(network.INTERNET)


def test_what_is_refused_is_counted(said: dict[str, Any]) -> None:
    assert said["counted"] > len(network.PRIVATE) and said["metadata counted"] > 0


@pytest.mark.parametrize("who", ["root", "agent"])
def test_the_agent_and_root_get_everywhere(said: dict[str, Any], who: str) -> None:
    assert said[who] == said["open"]


def test_nobody_else_gets_to_metadata(said: dict[str, Any]) -> None:
    missing = set(said["open"]["through"]) - set(said["somebody"]["through"])
    assert missing == ways(network.METADATA)


def test_an_operator_lets_pages_in_and_keeps_them_out(said: dict[str, Any]) -> None:
    outside = [it for it in network.INTERNET if it != "8.8.8.8"]
    # Name servers of this machine, wherever they are, for names alone.
    names = {"10.255.0.9 tcp 53", "fd12::5 tcp 53"}
    expected = ways([*outside, "10.0.0.5"]) | RESOLVER | names
    assert set(said["operator"]["through"]) == expected


def test_a_browser_may_answer(said: dict[str, Any]) -> None:
    assert said["answers"]
