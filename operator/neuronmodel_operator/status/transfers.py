"""What workers read of a source on a network, as `status.workers` and `status.starts` show it."""

from collections.abc import Sequence

from neuronmodel_api.report import SourceTraffic
from neuronmodel_api.status import SourceTransfer


def total_transfer(found: Sequence[SourceTraffic]) -> SourceTransfer:
    """Returns the sum over the pods of a start. The rate is that of the one that read most."""
    most = max(found, key=lambda each: each.bytes)
    return SourceTransfer(
        bytes=sum(each.bytes for each in found),
        bytes_per_second=most.bytes_per_second,
        requests=sum(each.requests for each in found),
        retries=sum(each.retries for each in found),
        limited_milliseconds=sum(each.limited_milliseconds for each in found),
    )
