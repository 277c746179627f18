"""Policies of IAM, read and judged: as much of its language as `deploy/iam` speaks.
What it does not know it refuses to read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from collections.abc import Callable

# What is known of a request: a key's values, by its lower-case name.
Context = dict[str, list[str]]


OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringLike": lambda value, wanted: fnmatchcase(value, wanted),
    "ArnEquals": lambda value, wanted: fnmatchcase(value, wanted),
    "ArnLike": lambda value, wanted: fnmatchcase(value, wanted),
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
    "NumericLessThan": lambda value, wanted: float(value) < float(wanted),
    "NumericLessThanEquals": lambda value, wanted: float(value) <= float(wanted),
}
NEGATED = {"StringNotEquals": "StringEquals", "StringNotLike": "StringLike"}


class Unknown(ValueError):
    """A policy says something that nothing here understands."""


def _list(given: Any) -> list[str]:
    return [str(it) for it in given] if isinstance(given, list) else [str(given)]


@dataclass(frozen=True)
class Statement:
    sid: str
    allows: bool
    actions: list[str]
    resources: list[str]
    conditions: dict[str, dict[str, Any]]

    def applies(self, action: str, resource: str, context: Context) -> bool:
        return (
            any(fnmatchcase(action.lower(), it.lower()) for it in self.actions)
            and any(fnmatchcase(resource, it) for it in self.resources)
            and all(
                _holds(operator, key, _list(wanted), context)
                for operator, keys in self.conditions.items()
                for key, wanted in keys.items()
            )
        )


def _holds(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    values = context.get(key.lower())
    every, _, name = operator.rpartition(":")
    if every not in ("", "ForAnyValue"):
        raise Unknown(operator)
    wanted = [_filled(it, context) for it in wanted]
    if name in NEGATED:
        # What is not there is not equal to anything.
        test = OPERATORS[NEGATED[name]]
        return not values or not any(test(value, it) for value in values for it in wanted)
    if name not in OPERATORS:
        raise Unknown(operator)
    test = OPERATORS[name]
    return any(test(value, it) for value in values or [] for it in wanted)


def _filled(text: str, context: Context) -> str:
    """Puts the request's own values in for `${key}`; one that is not there fits nothing."""

    def value(match: re.Match[str]) -> str:
        found = context.get(match[1].lower(), [])
        return found[0] if found else "\0"

    return re.sub(r"\$\{([^}]+)\}", value, text)


class Policy:
    def __init__(self, text: str) -> None:
        document = json.loads(text)
        if document.get("Version") != "2012-10-17":
            raise Unknown("Version")
        self.statements = [self._read(it) for it in document["Statement"]]

    @staticmethod
    def _read(given: dict[str, Any]) -> Statement:
        unknown = set(given) - {"Sid", "Effect", "Action", "Resource", "Condition"}
        if unknown:
            raise Unknown(str(unknown))
        return Statement(
            sid=given["Sid"],
            allows={"Allow": True, "Deny": False}[given["Effect"]],
            actions=_list(given["Action"]),
            resources=_list(given["Resource"]),
            conditions=given.get("Condition", {}),
        )

    def allows(self, action: str, resource: str, context: Context) -> bool:
        """Whether some statement allows it and none denies it."""
        applying = [it for it in self.statements if it.applies(action, resource, context)]
        return bool(applying) and all(it.allows for it in applying)


def fill(text: str, values: dict[str, str | list[str]]) -> str:
    """A policy of `deploy/iam` with its placeholders filled in: words in capitals, in
    texts. One that stands for many becomes so many texts."""
    document = json.loads(text)

    def put(given: Any) -> Any:
        if isinstance(given, dict):
            return {key: put(value) for key, value in given.items()}
        if isinstance(given, list):
            return [one for it in map(put, given) for one in (it if isinstance(it, list) else [it])]
        return _put(given, values) if isinstance(given, str) else given

    return json.dumps(put(document), indent=2)


def _put(text: str, values: dict[str, str | list[str]]) -> str | list[str]:
    texts = [text]
    for name, value in values.items():
        pattern = rf"(?<![A-Z_]){name}(?![A-Z_])"
        if re.search(pattern, text):
            texts = [re.sub(pattern, it, one) for one in texts for it in _list(value)]
    return texts if len(texts) > 1 else texts[0]
