"""`python -m tests.standins.s3 --bucket models=folder`: one line of JSON with the URLs, then it serves."""

import argparse
import json
import signal
from collections.abc import Sequence

from .buckets import Grant
from .server import S3


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    s3 = S3(
        listen=given.listen,
        port=given.port,
        control_listen=given.control_listen,
        control_port=given.control_port,
        advertise=given.advertise,
        certificate=given.certificate,
        key=given.key,
    )
    _fill(s3, given)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with s3:
        print(json.dumps(s3.described()), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


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
    parser.add_argument("--bucket", metavar="NAME=FOLDER", type=_pair, action="append", default=[])
    parser.add_argument("--prefix", default="", help="what the keys of files begin with, with a slash at its end")
    parser.add_argument("--access-key", metavar="ID=SECRET", type=_pair, action="append", default=[])
    parser.add_argument("--public", metavar="NAME", action="append", default=[], help="a bucket for everybody")
    parser.add_argument("--versioned", action="store_true")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--page-size", type=int, default=1000)
    parser.add_argument("--listen", default="127.0.0.1", help="address of S3 and of what gives keys for it")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-listen", default="127.0.0.1")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--advertise", metavar="URL", help="S3 as clients reach it")
    parser.add_argument("--certificate", metavar="FILE")
    parser.add_argument("--key", metavar="FILE")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, value


if __name__ == "__main__":
    raise SystemExit(main())
