"""Throttling as AWS does it: a bucket of tokens for each kind of call, emptied by
calls and refilled by time."""

from __future__ import annotations

from fnmatch import fnmatchcase

# Pattern, tokens at most, tokens that come back in a second. The first that matches
# counts. EC2's are those of its documentation for an account without a raised limit.
USUAL: list[tuple[str, float, float]] = [
    ("RunInstances", 5, 2),
    ("StartInstances", 5, 2),
    ("Describe*", 100, 20),
    ("GetConsoleOutput", 100, 20),
    ("TerminateInstances", 100, 5),
    ("RebootInstances", 50, 5),
    ("StopInstances", 50, 5),
    ("CreateTags", 50, 5),
    ("PutParameter", 3, 3),
    ("DeleteParameter*", 3, 3),
    ("GetParameter*", 40, 40),
    ("SendCommand", 3, 3),
]


class Bucket:
    def __init__(self, most: float, refill: float, now: float) -> None:
        self.most, self.refill = most, refill
        self.tokens, self.at = most, now

    def take(self, now: float) -> bool:
        self.tokens = min(self.most, self.tokens + (now - self.at) * self.refill)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Buckets:
    """Off until a test switches it on."""

    def __init__(self) -> None:
        self._sizes: list[tuple[str, float, float]] = []
        self._buckets: dict[str, Bucket] = {}

    def switch(self, wanted: bool | dict[str, list[float]] | None) -> None:
        """`True`: AWS's usual; an object: patterns with what they hold and refill."""
        self._buckets = {}
        if isinstance(wanted, dict):
            self._sizes = [(name, most, refill) for name, (most, refill) in wanted.items()]
        else:
            self._sizes = list(USUAL) if wanted else []

    def allow(self, action: str, now: float) -> bool:
        for pattern, most, refill in self._sizes:
            if fnmatchcase(action, pattern):
                bucket = self._buckets.setdefault(pattern, Bucket(most, refill, now))
                return bucket.take(now)
        return True
