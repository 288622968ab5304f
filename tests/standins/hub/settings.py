"""How the Hub answers, which tests change while it runs, and where it is."""

from dataclasses import dataclass
from typing import Final

XET_TOKEN: Final = "xet"
"""What the Hub gives for Xet's servers, in place of the user's token."""


@dataclass
class Settings:
    page_size: int = 1000
    """Of a tree."""
    expanded_page_size: int = 50
    xet: bool = False
    """Files say that they are on Xet too; there is none of its servers behind it, so a client has to do without."""


@dataclass
class Addresses:
    """As they are told to clients, without a slash at the end."""

    hub: str = ""
    cdn: str = ""
