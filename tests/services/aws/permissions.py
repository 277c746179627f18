"""Who calls: the control plane, a machine by its role, or somebody else, who is the
test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calls import Call


class Judge:
    def __init__(self, aws: Any, policies: Path) -> None:
        self._aws, self._policies = aws, policies

    def who(self, access_key: str) -> str:
        if access_key == self._aws.account.access_key:
            return "control-plane"
        return self._aws.sessions.machine(access_key) or "test"

    def judge(self, call: Call) -> None:
        """Refuses what the policies of who calls do not allow."""
