"""Ends processes as a power cut does."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name is in parentheses; then come state and parent.
                parent = (entry / "stat").read_text().rsplit(") ", 1)[1].split(" ")[1]
            except (OSError, IndexError):
                continue
            found[int(parent)].append(int(entry.name))
    return found


def kill_tree(root: int) -> None:
    """Kills a process and all below it. They are stopped first, so that none of them
    makes another meanwhile."""
    _send(root, signal.SIGSTOP)
    children = _children()
    tree, seen = [root], 0
    while seen < len(tree):
        tree += children[tree[seen]]
        seen += 1
    for process in tree:
        _send(process, signal.SIGKILL)


def _send(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass
