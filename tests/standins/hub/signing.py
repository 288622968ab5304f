"""URLs of the CDN that are valid for a while, with the parameters of CloudFront's signatures and, if asked, S3's."""

import base64
import hashlib
import hmac
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from ..faulty_http import Response
from .refusals import xml_error

KEY_PAIR = "K2L8F4GPSG1IFC"
_AMAZON_TIME = "%Y%m%dT%H%M%SZ"


@dataclass
class Signer:
    lifetime_seconds: float = 3600.0
    with_amazon_expiry: bool = False
    """Adds X-Amz-Date and X-Amz-Expires, as URLs of some of the Hub's CDN hosts have them."""
    clock: Callable[[], float] = time.time
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def query(self, path: str, file_name: str) -> str:
        """What makes `path` readable from now on."""
        now = self.clock()
        expires = math.ceil(now + self.lifetime_seconds)
        parameters = {
            "response-content-disposition": f"inline; filename*=UTF-8''{file_name}; filename=\"{file_name}\";"
        }
        if self.with_amazon_expiry:
            parameters |= _amazon(now, self.lifetime_seconds)
        policy = _cloudfront_base64(json.dumps(_policy(path, expires), separators=(",", ":")).encode())
        parameters |= {
            "Expires": str(expires),
            "Policy": policy,
            "Signature": self._signature(path, policy, str(expires)),
        }
        return urlencode({**parameters, "Key-Pair-Id": KEY_PAIR})

    def refusal(self, path: str, query: Mapping[str, str]) -> Response | None:
        """None if the URL may be read now."""
        for name in ("Key-Pair-Id", "Signature", "Policy", "Expires"):
            if name not in query:
                return xml_error(403, "MissingKey", f"Missing {name} query parameter or cookie value")
        if not hmac.compare_digest(self._signature(path, query["Policy"], query["Expires"]), query["Signature"]):
            return xml_error(403, "AccessDenied", "Access denied")
        if self.clock() >= _expiry(query["Policy"]):
            return xml_error(403, "AccessDenied", "Request has expired")
        return None

    def _signature(self, path: str, *parameters: str) -> str:
        signed = "\n".join((path, *parameters)).encode()
        return _cloudfront_base64(hmac.digest(self._secret, signed, hashlib.sha256))


def _policy(path: str, expires: int) -> dict[str, object]:
    condition = {"DateLessThan": {"AWS:EpochTime": expires}}
    return {"Statement": [{"Resource": f"*{path}*", "Condition": condition}]}


def _expiry(policy: str) -> float:
    plain = policy.translate(str.maketrans("-_~", "+=/"))
    statement = json.loads(base64.b64decode(plain))["Statement"][0]
    return float(statement["Condition"]["DateLessThan"]["AWS:EpochTime"])


def _cloudfront_base64(data: bytes) -> str:
    """With CloudFront's characters in place of those that mean something in a URL."""
    return base64.b64encode(data).decode().translate(str.maketrans("+=/", "-_~"))


def _amazon(now: float, lifetime: float) -> dict[str, str]:
    made = datetime.fromtimestamp(now, UTC).strftime(_AMAZON_TIME)
    return {"X-Amz-Date": made, "X-Amz-Expires": str(int(lifetime))}
