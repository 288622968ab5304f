"""The kinds of sources on a network, one module each: what the spec says of one, what a worker is told of it, and all
by which it differs from the others. A kind that is listed here is known to the operator."""

from typing import Final

from neuronmodel_api.sources.hugging_face import HubSource, HuggingFace
from neuronmodel_api.sources.network import NetworkSource, NetworkSourceConfig
from neuronmodel_api.sources.s3 import S3, S3Source

NETWORK_SOURCES: Final[tuple[type[NetworkSource], ...]] = (HuggingFace, S3)

__all__ = ["NETWORK_SOURCES", "S3", "HubSource", "HuggingFace", "NetworkSource", "NetworkSourceConfig", "S3Source"]
