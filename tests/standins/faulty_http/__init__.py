"""An HTTP server that records requests and fails as it is told to, for stand-ins of services on a network.

A stand-in is a `FaultyServer` whose origins (`Origin`) say what a path means; here is all that does not depend on
that:

| part | what it is |
| --- | --- |
| `messages.py` | requests, answers, and refusals that an origin raises in place of an answer |
| `origins.py` | what an origin has to say: its name, its answers, and by which further name a request is known |
| `listener.py`, `delivery.py` | sockets and threads, and how an answer goes out, with what faults make of it |
| `faults.py` | what goes wrong, and for which requests |
| `records.py` | every request that came |
| `server.py`, `control.py`, `command.py` | the whole, the API for other processes, and what their command lines share |

A stand-in may extend `RequestRecord` by what it tells of a request, `Fault` and `Rule` by faults of its own, and
`ControlOrigin` by what other processes may change. Python's standard library is enough for all of it.
"""

from .control import ControlOrigin, Given
from .faults import Fault, Faults, Rule
from .listener import Listener, reached
from .messages import Body, FilePart, Refusal, Request, Response, Text, json_response, text_response
from .origins import KnownAs, Origin
from .records import Records, RequestRecord
from .server import FaultyServer, tls_of

__all__ = [
    "Body",
    "ControlOrigin",
    "Fault",
    "Faults",
    "FaultyServer",
    "FilePart",
    "Given",
    "KnownAs",
    "Listener",
    "Origin",
    "Records",
    "Refusal",
    "Request",
    "RequestRecord",
    "Response",
    "Rule",
    "Text",
    "json_response",
    "reached",
    "text_response",
    "tls_of",
]
