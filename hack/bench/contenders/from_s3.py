"""Ours: a checkpoint from a bucket of S3, which is the tests' own. And what it is held to: the same bytes, downloaded
in the same ranges and dropped, or fewer at a time."""

from hack.bench.contenders.network import prepared, serve
from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.bucket import open_bucket
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import GivenKeys

BUCKET = "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDBENCH", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


def prepare(task: Task) -> Timed:
    """`bytes_per_second` is what the server gives to all connections together, or `delay_seconds` what each range is
    waited for."""
    slowly = {way: task.options[way] for way in ("bytes_per_second", "delay_seconds") if way in task.options}
    served = ("--bucket", f"{BUCKET}={task.source}", "--access-key", "=".join(KEYS.values()))
    endpoint = serve("tests.standins.s3", *served, fault={"origin": "s3", "operation": "get", **slowly})
    client = S3Client(S3Server(endpoint=endpoint), S3Address.parse(f"s3://{BUCKET}"), GivenKeys(KEYS))
    return prepared(open_bucket(client), task)
