"""`python -m tests.standins.hub --repository org/name=folder`: one line of JSON with the URLs, then it serves."""

import argparse
from collections.abc import Sequence

from ..faulty_http.command import add_listening, listening, pair, serve_until_ended
from .server import Hub


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    hub = Hub(cdn_port=given.cdn_port, advertise_cdn=given.advertise_cdn, **listening(given))
    _fill(hub, given)
    return serve_until_ended(hub)


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
    parser.add_argument("--repository", metavar="ID=FOLDER", type=pair, action="append", default=[], help=again)
    parser.add_argument("--token", metavar="TOKEN=USER", type=pair, action="append", default=[])
    parser.add_argument("--private", metavar="ID", action="append", default=[])
    parser.add_argument("--gated", metavar="ID", action="append", default=[])
    add_listening(parser, "the Hub", "the Hub and the CDN")
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--advertise-cdn", metavar="URL", help="the CDN as clients reach it")
    parser.add_argument("--page-size", type=int, default=1000)
    parser.add_argument("--url-lifetime-seconds", type=float, default=3600.0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
