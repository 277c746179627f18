"""What a systemd unit says, as far as machines here follow it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

SECONDS = {"us": 1e-6, "ms": 1e-3, "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str) -> float:
    """`5s`, `1min 30s`, `500ms`, `5`."""
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)", text)
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


@dataclass
class Service:
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    # Paths; one with a `-` before it may be absent.
    environment_files: list[str] = field(default_factory=list)
    restart: str = "no"
    restart_s: float = 0.1
    # Exit codes after which it stays down.
    prevented: set[int] = field(default_factory=set)
    # So many starts within so many seconds, and what happens at one more.
    burst: int = 5
    interval_s: float = 10
    limit_action: str = "none"

    def restarts_after(self, code: int) -> bool:
        """Whether it is started again after this end; signals are negative."""
        if code in self.prevented:
            return False
        if self.restart == "always":
            return True
        clean = code in (0, -1, -2, -13, -15)
        return self.restart == "on-failure" and not clean


def read(text: str) -> Service:
    settings: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if not line or line[0] in "#;[":
            continue
        key, _, value = line.partition("=")
        settings.setdefault(key.strip(), []).append(value.strip())

    def last(key: str, default: str) -> str:
        return settings.get(key, [default])[-1]

    environment: dict[str, str] = {}
    for line in settings.get("Environment", []):
        environment.update(it.partition("=")[::2] for it in shlex.split(line))
    return Service(
        command=shlex.split(settings["ExecStart"][-1]),
        environment=environment,
        environment_files=settings.get("EnvironmentFile", []),
        restart=last("Restart", "no"),
        restart_s=seconds(last("RestartSec", "100ms")),
        prevented={
            int(it)
            for line in settings.get("RestartPreventExitStatus", [])
            for it in line.split()
            if it.isdigit()
        },
        burst=int(last("StartLimitBurst", "5")),
        interval_s=seconds(last("StartLimitIntervalSec", "10s")),
        limit_action=last("StartLimitAction", "none"),
    )


def read_environment(text: str) -> dict[str, str]:
    """An environment file: `KEY=value`, quoted or not."""
    found = {}
    for line in text.splitlines():
        line = line.strip()
        if line and line[0] not in "#;" and "=" in line:
            key, _, value = line.partition("=")
            found[key.strip()] = "".join(shlex.split(value)) if value[:1] in "'\"" else value
    return found
