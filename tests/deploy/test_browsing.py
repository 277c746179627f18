"""The managed policy, in real Chromium."""

from __future__ import annotations

from typing import Any

import pytest

import browsing
import inside


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not inside.is_possible():
        pytest.fail("this needs root, for files of its own")
    return inside.run("browsing", tmp_path_factory.mktemp("browsing"), network=False)


def test_without_a_policy_files_are_open(said: dict[str, Any]) -> None:
    """Or the rest would show nothing."""
    assert said["file before"] == ["", browsing.SECRET]
    assert browsing.SECRET in said["source before"][1]
    assert "Chromium" in said["internal before"][1]


def test_pages_open(said: dict[str, Any]) -> None:
    assert said["page"] == said["page before"] == ["", "an open page"]


@pytest.mark.parametrize("what", ["file", "source", "internal"])
def test_local_schemes_are_closed(said: dict[str, Any], what: str) -> None:
    error, text = said[what]
    assert error == "net::ERR_BLOCKED_BY_ADMINISTRATOR"
    assert browsing.SECRET not in text and "Chromium" not in text
