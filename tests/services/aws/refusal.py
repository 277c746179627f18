"""An answer of AWS that is an error."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

REQUEST_ID = "00000000-0000-4000-8000-000000000000"


class Refusal(Exception):
    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status

    def body(self, service: str) -> tuple[str, bytes]:
        """Content type and text, in the protocol of the service."""
        if service == "ssm":
            text = json.dumps({"__type": self.code, "message": self.message})
            return "application/x-amz-json-1.1", text.encode()
        error = f"<Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
        if service == "ec2":
            text = (
                f"<Response><Errors><Error>{error}</Error></Errors>"
                f"<RequestID>{REQUEST_ID}</RequestID></Response>"
            )
        else:
            text = (
                f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error>"
                f"<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
            )
        return "text/xml;charset=UTF-8", f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
