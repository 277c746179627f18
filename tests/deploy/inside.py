"""Runs a function as root in namespaces of its own: what it does to the network, to
files of the system and to users is gone when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Numbers that no package gives to its users.
AGENT, BROWSER = 64_991, 64_992
# Folders that may be written to inside; below each lies what was there before.
OVERLAID = ("/etc", "/usr/local", "/run", "/var/lib")


def run(module: str, folder: Path, *given: str, network: bool = True) -> Any:
    """What `module`, beside this file, says when it is run inside."""
    flags = ["--mount", "--propagation", "private", *(["--net"] if network else [])]
    done = subprocess.run(
        ["unshare", *flags, sys.executable, "-B", HERE / f"{module}.py", folder, *given],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def own_files(folder: Path) -> None:
    """From now on, what is written to the system's folders is written to memory."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    for number, path in enumerate(OVERLAID):
        upper, work = folder / f"upper{number}", folder / f"work{number}"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={path},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, path], check=True)


def own_users() -> None:
    """The users that machines have."""
    for name, number in (("browserfleet", AGENT), ("browserfleet-chrome", BROWSER)):
        with open("/etc/passwd", "a", encoding="ascii") as users:
            users.write(f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n")
        with open("/etc/group", "a", encoding="ascii") as groups:
            groups.write(f"{name}:x:{number}:\n")


def is_possible() -> bool:
    return os.geteuid() == 0
