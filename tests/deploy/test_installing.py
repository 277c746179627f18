"""What `browserfleet-install` leaves on a machine."""

from __future__ import annotations

from typing import Any

import pytest

import inside


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not inside.is_possible():
        pytest.fail("this needs root, for files of its own")
    return inside.run("installing", tmp_path_factory.mktemp("installing"), network=False)


def test_only_the_program_that_was_meant_is_installed(said: dict[str, Any]) -> None:
    assert said["wrong"][0] != 0 and "not the one that was meant" in said["wrong"][1]
    assert said["absent"][0] != 0 and said["plain"][0] != 0
    assert said["not installed"] and said["left"] == []
    assert said["right"] == [0, ""] and said["runs"] == "the agent\n"


def test_users_are_made_once_and_cannot_log_in(said: dict[str, Any]) -> None:
    assert set(said["users"]) == {"browserfleet", "browserfleet-chrome"}
    assert {shell for _, shell in said["users"].values()} == {"/usr/sbin/nologin"}
    # Numbers of its own below its own would be a way around the packet filter.
    assert not said["subordinate"]
    assert said["again"] == [0, ""] and said["users again"] == said["users"]


def test_both_browsers_find_the_policy(said: dict[str, Any]) -> None:
    assert said["policies"] == ["{}", "{}"]


def test_an_image_that_lacks_something_is_told(said: dict[str, Any]) -> None:
    assert said["lacking"] == [1, "browserfleet: the image lacks nft\n"]
