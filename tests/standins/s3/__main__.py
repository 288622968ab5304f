"""`python -m tests.standins.s3 --bucket models=folder`: one line of JSON with the URLs, then it serves."""

import argparse
from collections.abc import Sequence

from ..faulty_http.command import add_listening, listening, pair, serve_until_ended
from .buckets import Grant
from .server import S3


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    s3 = S3(**listening(given))
    _fill(s3, given)
    return serve_until_ended(s3)


def _fill(s3: S3, given: argparse.Namespace) -> None:
    s3.settings.page_size, s3.settings.region = given.page_size, given.region
    for name, folder in given.bucket:
        bucket = s3.buckets.get(name) or s3.add_bucket(name, region=given.region, versioned=given.versioned)
        bucket.public = Grant() if name in given.public else bucket.public
        bucket.add_folder(folder, given.prefix)
    for id, secret in given.access_key:
        s3.add_key(id, secret)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.standins.s3", description=__doc__)
    parser.add_argument("--bucket", metavar="NAME=FOLDER", type=pair, action="append", default=[])
    parser.add_argument("--prefix", default="", help="what the keys of files begin with, with a slash at its end")
    parser.add_argument("--access-key", metavar="ID=SECRET", type=pair, action="append", default=[])
    parser.add_argument("--public", metavar="NAME", action="append", default=[], help="a bucket for everybody")
    parser.add_argument("--versioned", action="store_true")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--page-size", type=int, default=1000)
    add_listening(parser, "S3", "S3 and of what gives keys for it")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
