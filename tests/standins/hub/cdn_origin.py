"""Where the bytes of large files are: for whom has a signed URL, and never for a token."""

from dataclasses import dataclass

from ..faulty_http import KnownAs, Request, Response
from .ranges import part_of_file
from .refusals import Refused, xml_error
from .repository import Repositories, RepositoryFile
from .settings import XET_TOKEN
from .signing import Signer


@dataclass
class CdnOrigin:
    repositories: Repositories
    signer: Signer
    name: str = "cdn"

    def answer(self, request: Request) -> Response:
        if request.authorization == f"Bearer {XET_TOKEN}":
            return xml_error(404, "NoSuchKey", "Nothing is on Xet here")
        if request.authorization is not None:
            return xml_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        refusal = self.signer.refusal(request.quoted_path, request.query)
        if refusal:
            return refusal
        if request.method != "GET":
            return xml_error(403, "SignatureDoesNotMatch", "The URL was signed for GET")
        file = self._file(request)
        if file is None:
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        return self._content(request, file)

    def known_as(self, request: Request) -> KnownAs:
        """By the file's path in its repository, which the CDN's URLs do not have."""
        found = self._file(request)
        return KnownAs(found.path if found else None)

    def _content(self, request: Request, file: RepositoryFile) -> Response:
        try:
            response = part_of_file(file, request.range)
        except Refused as refused:
            return xml_error(refused.status, "InternalError", refused.message)
        if response.status == 416:
            return _beyond_the_end(response)
        named = {"ETag": f'"{file.sha256}"', "Content-Type": "application/octet-stream"}
        response.headers |= {
            **named,
            "Content-Disposition": request.query.get("response-content-disposition", "inline"),
        }
        return response

    def _file(self, request: Request) -> RepositoryFile | None:
        parts = request.segments
        return self.repositories.large_file(parts[1], parts[2]) if len(parts) == 3 and parts[0] == "repos" else None


def _beyond_the_end(response: Response) -> Response:
    told = xml_error(416, "InvalidRange", "The requested range is not satisfiable")
    told.headers |= response.headers
    return told
