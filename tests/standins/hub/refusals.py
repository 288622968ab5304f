"""What is refused, as the Hub and its CDN word it."""

from collections.abc import Mapping

from ..faulty_http import Refusal, Response, Text
from ..faulty_http import json_response as plain_json_response


class Refused(Refusal):
    """An answer that is not what was asked for; a client reads the code and the message from the headers."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers)

    def response(self) -> Response:
        made = json_response({"error": self.message}, self.status)
        made.headers |= {"X-Error-Message": self.message, **self.headers}
        if self.code:
            made.headers["X-Error-Code"] = made.error = self.code
        return made


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return plain_json_response(value, status, {"Content-Type": "application/json; charset=utf-8", **headers})


def xml_error(status: int, code: str, message: str) -> Response:
    """As object stores and their CDNs word it."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status, {"Content-Type": "application/xml"}, Text(text.encode()), error=code)
