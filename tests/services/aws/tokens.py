"""Client tokens of launches: the same one again is answered with the first machine,
in the state that it is in now, and never makes a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import listing
from calls import Call
from cloud import Cloud, Machine
from refusal import REQUEST_ID, Refusal

# A token counts for one zone where the launch names one, else for the region.
Key = tuple[str, str | None]


def key(call: Call, zone: str | None) -> Key | None:
    token = call.params.get("ClientToken")
    return (token, zone) if token else None


@dataclass
class Launch:
    params: dict[str, Any]
    reservation: Any
    machines: list[Machine]

    def answer(self, cloud: Cloud) -> Any:
        """The first answer, with the states of now."""
        instances = "".join(listing.instance(cloud, it) for it in self.machines)
        return (
            200,
            dict(listing.XML),
            (
                '<?xml version="1.0" encoding="UTF-8"?>'
                f'<RunInstancesResponse xmlns="{listing.NAMESPACE}"><requestId>{REQUEST_ID}</requestId>'
                f"<reservationId>{self.reservation.id}</reservationId>"
                f"<ownerId>{self.reservation.owner_id}</ownerId><groupSet/>"
                f"<instancesSet>{instances}</instancesSet></RunInstancesResponse>"
            ),
        )


def find(cloud: Cloud, key: Key, call: Call) -> Launch | None:
    """The launch that had this token; refused where it was another."""
    former: Launch | None = cloud.launches.get(key)
    if former is not None and former.params != call.params:
        names = former.params.keys() | call.params.keys()
        differ = sorted(it for it in names if former.params.get(it) != call.params.get(it))
        raise Refusal(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in "
            f"previous request(s): {', '.join(differ)}",
        )
    return former
