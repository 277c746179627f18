"""What is inside a machine: a folder for its disk, a metadata service, the boot that
its user-data asks for, and the agent as its unit says.

All of it runs on one loop, so nothing here needs a lock.

    off -> booting -> up (the unit runs, or the test plays it) -> off
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta, UTC
from pathlib import Path
from typing import Any
from collections.abc import Callable

import metadata
import processes
import unit
import user_data
from cloud import Cloud, Machine
from life import SPOT

# A unit's wait before it starts again is this part of what it says: minutes of
# waiting in a test show nothing that seconds do not.
RESTART_SCALE = 0.02
# Settings of the agent whose values are paths on the machine's disk.
PATHS = ("BROWSERFLEET_CA_FILE", "BROWSERFLEET_DATA_DIR")
# How long an end that is told may take before the power is cut, in seconds.
GRACE = 10
# Lines of the agent's log that the journal keeps for each machine.
JOURNAL_MAX = 2_000
# Bytes of a line of it, and seconds that its last lines may take after its end.
LINE_MAX = 1 << 20
LAST_WORDS = 0.5
# Looks at a dead machine's disk until nothing writes to it any more.
CLEAR_TRIES = 40
CLEAR_EVERY = 0.05
UNIT = "browserfleet-agent"
POWER_OFF = """#!/bin/bash
# Tells the simulator that this machine powers off.
exec 3<>/dev/tcp/127.0.0.1/{port}
printf 'POST /_power-off HTTP/1.1\\r\\nHost: machine\\r\\nConnection: close\\r\\n\\r\\n' >&3
cat <&3 >/dev/null
"""


@dataclass(frozen=True)
class Surroundings:
    """What all machines share."""

    cloud: Cloud
    loop: asyncio.AbstractEventLoop
    folder: Path
    agent: Path
    # Where AWS is, once it listens.
    endpoint: Callable[[], str]
    credentials: Callable[[Machine], dict[str, str]]
    role: str


class Guest:
    def __init__(self, machine: Machine, around: Surroundings, content: bytes) -> None:
        self.machine, self.around = machine, around
        self.folder = around.folder / machine.id
        self.content = content
        self.state = "off"
        self.boots = 0
        self.starts = 0
        self.powered_off = False
        self.exits: list[int] = []
        self.fault = ""
        self.environment: dict[str, str] = {}
        self.journal: deque[str] = deque(maxlen=JOURNAL_MAX)
        self.agent: asyncio.subprocess.Process | None = None
        self.metadata = metadata.Metadata(lambda: around.credentials(machine))
        self.metadata.role = around.role
        self.metadata.doors["/_power-off"] = self._power_off
        self.metadata.facts = metadata.facts(
            around.cloud.report(machine), around.cloud.account, around.cloud.region, content
        )
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._restart_asked = False
        self._rescue = asyncio.Event()

    # -- told from other threads ---------------------------------------------------

    def soon(self, what: Callable[..., Any], *given: Any) -> None:
        self.around.loop.call_soon_threadsafe(what, *given)

    def changed(self) -> None:
        """Its machine has another state, now or soon."""
        self.soon(self._follow)

    def reboot(self) -> None:
        self.soon(self._reboot)

    def report(self) -> dict[str, Any]:
        return {
            "guest": self.state,
            "metadata_endpoint": f"http://127.0.0.1:{self.metadata.port}",
            "metadata_mode": self.metadata.mode,
            "metadata_asked": len(self.metadata.asked),
            "agent": self.machine.agent,
            "agent_process": self.agent.pid if self.agent is not None else None,
            "boots": self.boots,
            "starts": self.starts,
            "exits": self.exits,
            "powered_off": self.powered_off,
            "fault": self.fault,
            "folder": str(self.folder),
            "token_parameter": self._token_parameter(),
        }

    def console(self) -> list[str]:
        """What a serial console shows: that it booted, and what went wrong."""
        if not self.boots:
            return []
        return [f"{self.machine.id} login: cloud-init finished", *filter(None, [self.fault])]

    def _token_parameter(self) -> str:
        path = self.environment.get("BROWSERFLEET_TOKEN_PARAMETERS", "")
        return f"{path}{self.machine.id}" if path else ""

    # -- power ---------------------------------------------------------------------

    async def start(self) -> None:
        """Once, when the machine is launched."""
        await self.metadata.start()
        self._read()
        self._follow()

    def _follow(self) -> None:
        """Brings what is inside in line with the machine's state, now and at its turns."""
        now = self.around.cloud.now()
        life = self.machine.life
        state = life.at(now).state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (then := life.next_after(now)) is not None:
            # Loop and machines have the same clock.
            self._timer = self.around.loop.call_at(then + 0.001, self._follow)
        if state == "running" and not self.machine.vanished:
            if self.state == "off":
                self._boot()
        elif state != "pending":
            if self.state != "off":
                self._cut()
            if state == "terminated" or self.machine.vanished:
                self.around.loop.create_task(self._clear())

    def _boot(self) -> None:
        self.state = "booting"
        self.boots += 1
        self.metadata.mode = "up"
        self._running = self.around.loop.create_task(self._run())

    def _cut(self) -> None:
        """The power is gone: nothing is told to anybody, unless machines are to be graceful."""
        self.state = "off"
        self.metadata.mode = "down"
        if self._running is not None:
            self._running.cancel()
            self._running = None
        agent, self.agent = self.agent, None
        if agent is None or agent.returncode is not None:
            return
        if self.around.cloud.knobs.graceful:
            self.around.loop.create_task(_ended_in_time(agent))
        else:
            processes.kill_tree(agent.pid)

    def _reboot(self) -> None:
        if self.state != "off":
            self._cut()
            self._boot()

    async def _power_off(self) -> None:
        self.powered_off = True
        # The lock of the cloud may be held for a while; the loop must not wait for it.
        self.around.loop.run_in_executor(None, self.around.cloud.power_off, self.machine)

    async def _clear(self) -> None:
        """The disk goes with the machine; the log stays."""
        await self.metadata.stop()
        for _ in range(CLEAR_TRIES):
            if not self.folder.exists():
                return
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
            await asyncio.sleep(CLEAR_EVERY)

    # -- boot ----------------------------------------------------------------------

    def _read(self) -> None:
        """What user-data says, for those who play the agent too."""
        try:
            data = user_data.read(self.content)
            file = data.file("/etc/browserfleet/agent.env")
            if file is not None:
                self.environment = unit.read_environment(file.content.decode())
        except user_data.BadUserData as error:
            self.fault = f"user-data: {error}"

    async def _run(self) -> None:
        await asyncio.sleep(self.machine.boot_ms / 1000)
        if self.machine.silent:
            return
        if self.machine.agent == "none":
            self.state = "up"
            return
        try:
            data = user_data.read(self.content)
            self._write(data)
            if UNIT not in data.started_units():
                raise user_data.BadUserData(f"no command starts {UNIT}")
            file = data.file(f"/etc/systemd/system/{UNIT}.service")
            if file is None:
                raise user_data.BadUserData(f"no file is the unit {UNIT}")
            service = unit.read(file.content.decode())
        except (user_data.BadUserData, KeyError, ValueError) as error:
            # A machine whose boot fails says nothing to anybody.
            self.fault = f"user-data: {error}"
            return
        self.state = "up"
        await self._supervise(service)

    def _write(self, data: user_data.UserData) -> None:
        if self.boots > 1 and self.folder.exists():
            # cloud-init runs once for an instance; its disk is as it was.
            return
        for file in data.files:
            path = self._inside(file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            path.chmod(file.mode)
        power_off = self.folder / "power-off"
        power_off.parent.mkdir(parents=True, exist_ok=True)
        power_off.write_text(POWER_OFF.format(port=self.metadata.port))
        power_off.chmod(0o755)

    def _inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    # -- the unit ------------------------------------------------------------------

    def _environment(self, service: unit.Service) -> dict[str, str]:
        given = dict(service.environment)
        for path in service.environment_files:
            file = self._inside(path.lstrip("-"))
            if file.exists():
                given |= unit.read_environment(file.read_text())
        for name in PATHS:
            if name in given:
                given[name] = str(self._inside(given[name]))
        # Machines here share a kernel and its users: what keeps a browser apart on a
        # real one is shown elsewhere.
        return given | {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "AWS_ENDPOINT_URL": self.around.endpoint(),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.metadata.port}",
            "BROWSERFLEET_BROWSER_USER": "",
            "BROWSERFLEET_ISOLATION": "off",
            "BROWSERFLEET_POWER_OFF": str(self.folder / "power-off"),
        }

    async def _supervise(self, service: unit.Service) -> None:
        """Starts the agent, and again, as systemd would."""
        clock = self.around.loop.time
        starts: deque[float] = deque(maxlen=service.burst)
        while True:
            full = len(starts) == service.burst
            if full and clock() - starts[0] < service.interval_s:
                self._say("start request repeated too quickly")
                if service.limit_action.startswith("poweroff"):
                    await self._power_off()
                return
            starts.append(clock())
            code = await self._start(service)
            self.exits.append(code)
            asked, self._restart_asked = self._restart_asked, False
            if asked:
                starts.clear()
            elif not service.restarts_after(code):
                self._say(f"ended with {code} and stays down")
                await self._rescue.wait()
                self._rescue.clear()
                starts.clear()
            else:
                await asyncio.sleep(service.restart_s * RESTART_SCALE)

    async def _start(self, service: unit.Service) -> int:
        program = self._inside(service.command[0])
        program.parent.mkdir(parents=True, exist_ok=True)
        if not program.exists():
            program.symlink_to(self.around.agent)
        self.starts += 1
        agent = await asyncio.create_subprocess_exec(
            str(program),
            *service.command[1:],
            cwd=self.folder,
            env=self._environment(service),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=LINE_MAX,
        )
        self.agent = agent
        reader = self.around.loop.create_task(self._read_log(agent))
        code = await agent.wait()
        # What it started may hold its output open.
        await asyncio.wait([reader], timeout=LAST_WORDS)
        reader.cancel()
        self.agent = None
        return code

    async def _read_log(self, agent: asyncio.subprocess.Process) -> None:
        assert agent.stdout is not None
        with (self.around.folder / f"{self.machine.id}.log").open("ab") as log:
            async for line in agent.stdout:
                log.write(line)
                log.flush()
                self.journal.append(line.decode(errors="replace").rstrip("\n"))

    def _say(self, text: str) -> None:
        self.journal.append(f"systemd: {text}")

    # -- doors of a test -----------------------------------------------------------

    def signal(self, number: int) -> None:
        """Sends a signal to the agent's process."""
        if self.agent is not None and self.agent.returncode is None:
            os.kill(self.agent.pid, number)

    def crash(self) -> None:
        """Nothing inside runs on, and EC2 does not notice."""
        self._cut()
        self.state = "crashed"

    def end(self) -> None:
        """Everything of it ends, and its disk goes."""
        self._cut()
        if self._timer is not None:
            self._timer.cancel()
        self.around.loop.create_task(self._clear())

    def restart_agent(self) -> None:
        """`systemctl restart`, by whoever may."""
        if self.agent is not None and self.agent.returncode is None:
            self._restart_asked = True
            processes.kill_tree(self.agent.pid)
        else:
            self._rescue.set()

    def notice(self, action: str | None, in_ms: float, interrupts: bool) -> None:
        """A spot interruption is announced, or taken back; it comes unless told not to."""
        at = datetime.now(UTC) + timedelta(milliseconds=in_ms)
        said = (
            None
            if action is None
            else f'{{"action": "{action}", "time": "{metadata.instant(at)}"}}'
        )
        self.metadata.tell("meta-data/spot/instance-action", said)
        self.metadata.tell(
            "meta-data/spot/termination-time",
            metadata.instant(at) if action == "terminate" else None,
        )
        if action is not None and interrupts:
            cloud = self.around.cloud
            self.around.loop.call_later(
                in_ms / 1000,
                lambda: self.around.loop.run_in_executor(None, cloud.end, self.machine, SPOT),
            )

    def rebalance(self, recommended: bool) -> None:
        at = metadata.instant(datetime.now(UTC))
        said = f'{{"noticeTime": "{at}"}}' if recommended else None
        self.metadata.tell("meta-data/events/recommendations/rebalance", said)


async def _ended_in_time(agent: asyncio.subprocess.Process) -> None:
    agent.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(agent.wait(), GRACE)
    except TimeoutError:
        processes.kill_tree(agent.pid)
