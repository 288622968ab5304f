"""How the Hub answers, which tests change while it runs, and where it is."""

from dataclasses import dataclass


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
