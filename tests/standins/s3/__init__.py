"""The tests' own S3, with the services of AWS that give credentials for it; it goes wrong as it is told.

    with S3() as s3:
        bucket = s3.add_bucket("models", folder, prefix="llama/")
        key = s3.add_key()
        s3.faults.add(path="*.safetensors", nth=3, code="SlowDown")
        ...  # endpoint=s3.endpoint, access_key_id=key.id, secret_access_key=key.secret
        assert s3.requests.count(origin="s3", status=206)

It needs Python's standard library alone, and imports relatively, so that it runs wherever the folder is copied to with
`faulty_http` beside it, which has all that does not depend on what a path means. `python -m tests.standins.s3 --help`
is for other processes, with `control.py` of both folders as their API.
"""

from ..faulty_http import Rule
from .access import Key
from .buckets import Bucket, Grant, S3Object
from .faults import S3Fault as Fault
from .records import Record
from .server import S3

__all__ = ["S3", "Bucket", "Fault", "Grant", "Key", "Record", "Rule", "S3Object"]
