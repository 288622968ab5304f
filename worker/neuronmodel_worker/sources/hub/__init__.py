"""Repositories of the Hugging Face Hub, and of servers that speak its API, read at one commit."""

from neuronmodel_worker.sources.hub.address import HubAddress, endpoint_of
from neuronmodel_worker.sources.hub.client import PUBLIC, HubClient, HubServer
from neuronmodel_worker.sources.hub.configured import open_configured
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository

__all__ = [
    "PUBLIC",
    "HubAddress",
    "HubClient",
    "HubRepository",
    "HubServer",
    "endpoint_of",
    "open_configured",
    "open_repository",
]
