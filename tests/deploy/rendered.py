"""User-data as the control plane makes it of the template: each `@NAME@` becomes a text
in JSON's quotes."""

from __future__ import annotations

import json
import re
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MACHINE = DEPLOY / "machine"
FILES = {
    "FILE_AGENT_SERVICE": "browserfleet-agent.service",
    "FILE_BROWSERS_NFT": "browsers.nft",
    "FILE_CHROME_POLICY": "chrome-policy.json",
    "FILE_DEAD_MAN": "browserfleet-dead-man",
    "FILE_DEAD_MAN_SERVICE": "browserfleet-dead-man.service",
    "FILE_DEAD_MAN_TIMER": "browserfleet-dead-man.timer",
    "FILE_FIREWALL": "browserfleet-firewall",
    "FILE_INSTALL": "browserfleet-install",
    "FILE_POWER_OFF": "browserfleet-power-off",
}
# Two kibibytes of certificates: two authorities, while one takes the other's place.
AUTHORITY = "-----BEGIN CERTIFICATE-----\n" + ("M" * 64 + "\n") * 31 + "-----END CERTIFICATE-----\n"
VALUES = {
    "CONTROL_PLANE": "https://fleet.example.com:8081",
    "AUTHORITY": AUTHORITY,
    "TOKEN_PARAMETERS": "/browserfleet/0199b5a4-3c1e-7c7e-9a53-3a1f4e8b1d2c/enrol/",
    "SESSIONS_MAX": "8",
    "SPARES": "1",
    "DEAD_MAN_MS": "900000",
    "AGENT_URL": "",
    "AGENT_SHA256": "",
}


def render(**values: str) -> bytes:
    known = {
        **{name: (MACHINE / file).read_text() for name, file in FILES.items()},
        **VALUES,
        **values,
    }
    template = (DEPLOY / "user-data.yaml").read_text()
    return re.sub("@([A-Z0-9_]+)@", lambda it: json.dumps(known[it[1]]), template).encode()
