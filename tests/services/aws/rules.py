"""Faults as a test orders them: a list of rules, looked through from the top for
each call. The first that matches is applied; there is no chance in it.

A rule is a JSON object:

    {"action": "RunInstances",            a name or a pattern; without it: any call
     "when": {"type": "c7i.large"},       what has to be so; values or lists of patterns
     "skip": 2,                           let so many matching calls pass first
     "times": 1,                          apply it so often; without it: always
     "do": {"error": "InsufficientInstanceCapacity"}}
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

# Status and text of what AWS refuses with. EC2 says capacity, throttling and its own
# failures with 5xx.
ERRORS: dict[str, tuple[int, str]] = {
    "InsufficientInstanceCapacity": (
        500,
        "We currently do not have sufficient capacity in the Availability Zone you requested.",
    ),
    "InsufficientCapacity": (500, "There is not enough capacity to fulfill your request."),
    "InsufficientHostCapacity": (500, "There is not enough capacity on your Dedicated Hosts."),
    "InsufficientReservedInstanceCapacity": (500, "Not enough Reserved Instances are available."),
    "InsufficientFreeAddressesInSubnet": (
        400,
        "There are not enough free addresses in the subnet to satisfy the requested number of instances.",
    ),
    "InsufficientAddressCapacity": (500, "Not enough available addresses."),
    "SpotMaxPriceTooLow": (400, "Your Spot request price is lower than the minimum price."),
    "VcpuLimitExceeded": (
        400,
        "You have requested more vCPU capacity than your current vCPU limit allows.",
    ),
    "MaxSpotInstanceCountExceeded": (400, "Max spot instance count exceeded"),
    "InstanceLimitExceeded": (400, "You have reached the limit of instances that you may run."),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "InternalError": (500, "An internal error has occurred"),
    "InternalFailure": (500, "An internal failure has occurred"),
    "Unavailable": (503, "The service is unavailable. Please try again shortly."),
    "ServiceUnavailable": (503, "The service is unavailable. Please try again shortly."),
    "UnauthorizedOperation": (403, "You are not authorized to perform this operation."),
    "AuthFailure": (
        401,
        "AWS was not able to validate the provided access credentials",
    ),
    "RequestExpired": (400, "Request has expired."),
    "InvalidParameterValue": (400, "Value for a parameter is invalid."),
    "Unsupported": (400, "The requested configuration is currently not supported."),
    "InvalidAMIID.NotFound": (400, "The image id does not exist"),
    "OptInRequired": (401, "You are not subscribed to this service."),
    "PendingVerification": (400, "Your account is currently being verified."),
    "OperationNotPermitted": (400, "The instance may not be terminated."),
    "IncorrectInstanceState": (400, "The instance is not in a state that allows this."),
    "InvalidInstanceID.NotFound": (400, "The instance ID does not exist"),
    "IdempotentParameterMismatch": (
        400,
        "The client token was used with other parameters.",
    ),
    "IdempotentInstanceTerminated": (
        400,
        "The client token belongs to an instance that was terminated.",
    ),
    "ThrottlingException": (400, "Rate exceeded"),
    "TooManyUpdates": (400, "There are concurrent updates for a resource."),
    "ParameterNotFound": (400, ""),
    "ParameterLimitExceeded": (400, "You have exceeded the number of parameters."),
    "ParameterAlreadyExists": (400, "The parameter already exists."),
    "AccessDeniedException": (400, "User is not authorized to perform this action."),
    "InternalServerError": (500, "An error occurred on the server side."),
    "InvalidInstanceId": (400, "Instances not in a valid state for account"),
    "InvalidKeyId": (400, "The key is not valid."),
}

# What a rule may do to the answer, and to the machines that the call makes or names.
ANSWERS = {"error", "lost", "drop", "gateway", "truncated"}
EFFECTS = {
    "status",
    "message",
    "delay_ms",
    "late_ms",
    "ignored",
    "pending_ms",
    "stuck",
    "dies",
    "silent",
    "boot_ms",
    "agent",
}
FIELDS = {
    "type",
    "subnet",
    "zone",
    "market",
    "image",
    "token",
    "row",
    "attempt",
    "id",
    "name",
    "document",
    "page",
    "caller",
}


class BadRule(ValueError):
    """A rule that says something that nobody understands."""


def _one_of(allowed: Any, values: list[str]) -> bool:
    patterns = allowed if isinstance(allowed, list) else [allowed]
    return any(fnmatchcase(value, str(pattern)) for pattern in patterns for value in values)


@dataclass
class Rule:
    action: str
    when: dict[str, Any]
    do: dict[str, Any]
    skip: int = 0
    times: int | None = None
    matched: int = 0
    applied: int = 0

    @classmethod
    def read(cls, given: dict[str, Any]) -> Rule:
        unknown = set(given) - {"action", "when", "do", "skip", "times"}
        rule = cls(
            action=given.get("action", "*"),
            when=given.get("when", {}),
            do=given.get("do", {}),
            skip=given.get("skip", 0),
            times=given.get("times"),
        )
        unknown |= set(rule.when) - FIELDS
        unknown |= set(rule.do) - ANSWERS - EFFECTS
        if unknown:
            raise BadRule(f"a rule has what no rule has: {sorted(unknown)}")
        if not rule.do:
            raise BadRule("a rule has to do something")
        if len(ANSWERS & set(rule.do)) > 1:
            raise BadRule("a call has one answer")
        error = rule.do.get("error")
        if error is not None and error not in ERRORS and "status" not in rule.do:
            raise BadRule(f"`{error}` has no usual status; say one")
        return rule

    def matches(self, action: str, fields: dict[str, list[str]]) -> bool:
        return fnmatchcase(action, self.action) and all(
            _one_of(allowed, fields.get(name, [])) for name, allowed in self.when.items()
        )

    def error(self) -> tuple[str, int, str]:
        """Code, status and text."""
        code: str = self.do["error"]
        status, message = ERRORS.get(code, (400, code))
        return code, self.do.get("status", status), self.do.get("message", message)


class Rules:
    """The rules that hold now."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def replace(self, given: list[dict[str, Any]]) -> None:
        self._rules = [Rule.read(it) for it in given]

    def pick(self, action: str, fields: dict[str, list[str]]) -> tuple[int, Rule] | None:
        """The rule for this call, and its place in the list; it is used once more."""
        for place, rule in enumerate(self._rules):
            if not rule.matches(action, fields):
                continue
            if rule.times is not None and rule.applied >= rule.times:
                continue
            rule.matched += 1
            if rule.matched <= rule.skip:
                continue
            rule.applied += 1
            return place, rule
        return None

    def report(self) -> list[dict[str, Any]]:
        return [
            {"action": it.action, "when": it.when, "matched": it.matched, "applied": it.applied}
            for it in self._rules
        ]
