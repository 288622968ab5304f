"""The tests' own Hugging Face Hub with its CDN, which does what the real one does and goes wrong as it is told.

    with Hub() as hub:
        hub.add_repository("org/name", folder).gated = "manual"
        hub.faults.add(origin="cdn", path="*.safetensors", nth=3, status=503)
        ...  # HF_ENDPOINT=hub.endpoint
        assert not hub.requests.leaks

It needs Python's standard library alone, and imports relatively, so that it runs wherever the folder is copied to with
`faulty_http` beside it, which has all that does not depend on what a path means. `python -m tests.standins.hub --help`
is for other processes, with `control.py` of both folders as their API.
"""

from ..faulty_http import Fault, Rule
from .rates import Limit
from .records import Record
from .repository import Repository
from .server import Hub

__all__ = ["Fault", "Hub", "Limit", "Record", "Repository", "Rule"]
