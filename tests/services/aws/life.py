"""What becomes of a machine, and when: the states that EC2 shows, as turns on a
clock. Pure: whoever asks says what time it is.

    pending -> running <-> stopping -> stopped
    any of them -> shutting-down -> terminated; pending -> terminated
"""

from __future__ import annotations

from dataclasses import dataclass, field

CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
ALIVE = ("pending", "running", "stopping", "stopped")


@dataclass(frozen=True)
class Reason:
    """Why a machine is in its state, as EC2 says it."""

    code: str = ""
    message: str = ""


USER = Reason(
    "Client.UserInitiatedShutdown",
    "Client.UserInitiatedShutdown: User initiated shutdown",
)
OWN = Reason(
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
SPOT = Reason(
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceTermination: Instance termination due to spot interruption",
)


@dataclass(frozen=True)
class Turn:
    """From this time on the state is this one. Times are seconds of one clock."""

    at: float
    state: str
    reason: Reason = Reason()


@dataclass
class Life:
    """The turns of one machine, oldest first. The first one is its launch."""

    turns: list[Turn] = field(default_factory=list)

    @classmethod
    def begun(cls, now: float, pending_s: float | None) -> Life:
        """A launch; without `pending_s` it stays pending."""
        life = cls([Turn(now, "pending")])
        if pending_s is not None:
            life.turns.append(Turn(now + pending_s, "running"))
        return life

    @property
    def launched(self) -> float:
        return self.turns[0].at

    def at(self, now: float) -> Turn:
        """The turn that holds at this time."""
        return next((it for it in reversed(self.turns) if it.at <= now), self.turns[0])

    def next_after(self, now: float) -> float | None:
        """When it changes next by itself."""
        return min((it.at for it in self.turns if it.at > now), default=None)

    def ended_at(self, now: float) -> float | None:
        """Since when it is terminated."""
        turn = self.at(now)
        return turn.at if turn.state == "terminated" else None

    def turn(self, now: float, *steps: tuple[float, str], reason: Reason = Reason()) -> None:
        """Goes another way from now on: each step is seconds from now, and a state."""
        past = [it for it in self.turns if it.at <= now] or self.turns[:1]
        # One assignment: others read it without a lock.
        self.turns = past + [Turn(now + after, state, reason) for after, state in steps]

    def stop(self, now: float, takes_s: float, reason: Reason = USER) -> None:
        self.turn(now, (0, "stopping"), (takes_s, "stopped"), reason=reason)

    def start(self, now: float, pending_s: float) -> None:
        self.turn(now, (0, "pending"), (pending_s, "running"))

    def terminate(self, now: float, takes_s: float, reason: Reason = USER) -> None:
        """Ends it, once: who is ending already ends when it was to."""
        if self.at(now).state not in ("shutting-down", "terminated"):
            self.turn(now, (0, "shutting-down"), (takes_s, "terminated"), reason=reason)
