"""`python -m tests.standins.hub --repository org/name=folder`: one line of JSON with the URLs, then it serves."""

import argparse
import json
import signal
from collections.abc import Sequence

from .server import Hub


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    hub = Hub(
        listen=given.listen,
        port=given.port,
        cdn_port=given.cdn_port,
        control_listen=given.control_listen,
        control_port=given.control_port,
        advertise=given.advertise,
        advertise_cdn=given.advertise_cdn,
        certificate=given.certificate,
        key=given.key,
    )
    _fill(hub, given)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with hub:
        print(json.dumps(hub.described()), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def _fill(hub: Hub, given: argparse.Namespace) -> None:
    for id, folder in given.repository:
        if id in hub.repositories:
            hub.add_revision(id, folder)
        else:
            hub.add_repository(id, folder, private=id in given.private, gated="manual" if id in given.gated else False)
    for token, user in given.token:
        hub.add_token(token, user)
    hub.settings.page_size = given.page_size
    hub.signer.lifetime_seconds = given.url_lifetime_seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.standins.hub", description=__doc__)
    again = "may be given again, also of an id that has one, for a further commit"
    parser.add_argument("--repository", metavar="ID=FOLDER", type=_pair, action="append", default=[], help=again)
    parser.add_argument("--token", metavar="TOKEN=USER", type=_pair, action="append", default=[])
    parser.add_argument("--private", metavar="ID", action="append", default=[])
    parser.add_argument("--gated", metavar="ID", action="append", default=[])
    parser.add_argument("--listen", default="127.0.0.1", help="address of the Hub and the CDN")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--control-listen", default="127.0.0.1")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--advertise", metavar="URL", help="the Hub as clients reach it")
    parser.add_argument("--advertise-cdn", metavar="URL", help="the CDN as clients reach it")
    parser.add_argument("--certificate", metavar="FILE")
    parser.add_argument("--key", metavar="FILE")
    parser.add_argument("--page-size", type=int, default=1000)
    parser.add_argument("--url-lifetime-seconds", type=float, default=3600.0)
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, value


if __name__ == "__main__":
    raise SystemExit(main())
