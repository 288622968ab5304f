"""The tests' own Hugging Face Hub with its CDN, which does what the real one does and goes wrong as it is told.

It needs Python's standard library alone, and its parts import each other relatively, so that it runs wherever the
folder is copied to. `server.Hub` is the way in.
"""

from .faults import Fault, Rule
from .rates import Limit
from .records import Record
from .repository import Repository
from .server import Hub

__all__ = ["Fault", "Hub", "Limit", "Record", "Repository", "Rule"]
