"""The dead man's switch of a machine, with a clock of the test's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from collections.abc import Callable

import pytest

from rendered import MACHINE

# The agent's limit, and what the switch adds to it, in seconds.
LIMIT = 900 + 600


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.up = 60
        for name in ("run", "state", "bin"):
            (folder / name).mkdir()
        self.agent(active=True)

    def agent(self, active: bool) -> None:
        stub = self.folder / "bin/systemctl"
        stub.write_text(
            f"#!/bin/sh\n[ $1 = is-active ] && exit {0 if active else 3}\n"
            f'echo "$@" >> {self.folder}/asked\n'
        )
        stub.chmod(0o755)

    def heard(self) -> None:
        """The agent hears the control plane."""
        file = self.folder / "state/heard"
        file.touch()
        os.utime(file, ns=(0, self.up * 1_000_000_000))

    def passes(self, seconds: int, each: Callable[[], None] = lambda: None) -> None:
        """Time, with a look every minute."""
        for _ in range(seconds // 60):
            each()
            self.look()
            self.up += 60

    def look(self) -> None:
        (self.folder / "uptime").write_text(f"{self.up}.37 100.00\n")
        subprocess.run(
            [MACHINE / "browserfleet-dead-man"],
            env={
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "BROWSERFLEET_DEAD_MAN_MS": "900000",
                "RUNTIME": str(self.folder / "run"),
                "STATE": str(self.folder / "state"),
                "UPTIME": str(self.folder / "uptime"),
            },
            check=True,
            capture_output=True,
        )

    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_that_is_heard_of_goes_on(machine: Machine) -> None:
    machine.passes(3 * LIMIT, each=machine.heard)
    assert machine.asked() == []


def test_a_machine_whose_agent_runs_and_has_no_file_goes_on(machine: Machine) -> None:
    machine.passes(3 * LIMIT)
    assert machine.asked() == []


def test_an_agent_that_hangs_is_ended_with_its_machine(machine: Machine) -> None:
    machine.heard()
    machine.passes(LIMIT)
    assert machine.asked() == []
    machine.passes(60)
    assert machine.asked() == ["poweroff --no-block"]
    # Once more, and then without waiting for anybody.
    machine.passes(60)
    assert machine.asked()[1:] == ["poweroff --force"]


def test_an_agent_that_never_came_up_is_ended_with_its_machine(machine: Machine) -> None:
    machine.agent(active=False)
    machine.passes(LIMIT)
    assert machine.asked() == []
    machine.passes(60)
    assert machine.asked() == ["poweroff --no-block"]


def test_a_sign_of_life_begins_the_count_anew(machine: Machine) -> None:
    machine.agent(active=False)
    machine.passes(LIMIT - 60)
    machine.heard()
    machine.passes(LIMIT)
    assert machine.asked() == []


def test_a_clock_that_jumps_ends_nothing(machine: Machine) -> None:
    machine.heard()
    machine.passes(300)
    os.utime(machine.folder / "state/heard", (4_000_000_000, 4_000_000_000))
    machine.passes(LIMIT)
    assert machine.asked() == []
