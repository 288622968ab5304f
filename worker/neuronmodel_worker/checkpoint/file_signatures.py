"""What is in the place of a file, by its first bytes: a pointer that was never fetched, an error page, an archive,
weights in another format.

Nothing here reads a disk: the first bytes may come from a folder or from a bucket. The caller has to know that the
bytes are not the right content, or that the right content never begins like this: the length of a safetensors header
may begin with any bytes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from neuronmodel_worker.io.untrusted_input import shown

HEAD_BYTES = 4096
"""How many first bytes are looked at."""

AGAIN = "Download it again, and look at what the server answers"
UNPACKED = "Unpack it, and put the files that were in it there"
AS_SAFETENSORS = (
    "Use the model in safetensors format: the original repository's, or loaded with transformers and saved with "
    "save_pretrained"
)
FETCHED = "Fetch it with `git lfs pull` in the clone of the repository, or download the checkpoint with `hf download`"


@dataclass(frozen=True)
class WrongContent:
    """What a file is instead: `what`, to follow "is", and `remedy`, a sentence without its full stop."""

    what: str
    remedy: str


def identify_content(head: bytes) -> WrongContent | None:
    """What a file is that begins with `head`, its first HEAD_BYTES bytes or all of it, if that is no file of a
    checkpoint.

    An empty file is not identified: some files may be empty.
    """
    return next((found for check in (_binary, _markup, _pointer, _link, _server_error) if (found := check(head))), None)


def text_of(head: bytes) -> str | None:
    """The beginning of `head` if it is text, for a file that should hold weights."""
    first = head[:LONGEST_BEGINNING]
    if not first.isascii() or not first.decode().translate(_SPACES).isprintable():
        return None
    return first.decode()


LONGEST_BEGINNING = 60
_SPACES = dict.fromkeys(map(ord, "\t\r\n"))

MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "a GGUF file, the format of llama.cpp", AS_SAFETENSORS),
    (b"ggml", "a GGML file, a format of llama.cpp", AS_SAFETENSORS),
    (b"lmgg", "a GGML file, a format of llama.cpp", AS_SAFETENSORS),
    (b"tjgg", "a GGML file, a format of llama.cpp", AS_SAFETENSORS),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras and TensorFlow write", AS_SAFETENSORS),
    (b"\x93NUMPY", "an array of NumPy", AS_SAFETENSORS),
    (b"\x1f\x8b\x08", "compressed with gzip", UNPACKED),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACKED),
    (b"\xfd7zXZ\x00", "compressed with xz", UNPACKED),
    (b"BZh", "compressed with bzip2", UNPACKED),
    (b"\x04\x22\x4d\x18", "compressed with lz4", UNPACKED),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACKED),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACKED),
    (b"%PDF-", "a PDF document", AGAIN),
    (b"PAR1", "a Parquet file, which holds data and no weights", AGAIN),
)
ZIP = b"PK\x03\x04"
PICKLE = re.compile(rb"\x80[\x02-\x05][}\](cX\x8a\x8c\x95]")
TAR = (257, b"ustar")
HEADER_BEGINS = (8, b"{")
"""Where the JSON of a safetensors header begins, after a length of any bytes."""


def _binary(head: bytes) -> WrongContent | None:
    at, brace = HEADER_BEGINS
    if head[at : at + 1] == brace and not head.startswith((b"GGUF", ZIP)):
        return None
    if head.startswith(ZIP):
        pickled = b"data.pkl" in head or b"/version" in head
        return WrongContent("a file of PyTorch's torch.save", AS_SAFETENSORS) if pickled else _zip(head)
    if PICKLE.match(head):
        return WrongContent("a pickle, as PyTorch's torch.save writes it", AS_SAFETENSORS)
    if head[TAR[0] :].startswith(TAR[1]):
        return WrongContent("a tar archive", UNPACKED)
    if len(head) > at and not head.strip(b"\0"):
        return WrongContent(
            "filled with zeros, as a download is that reserved its room and was not finished",
            "Delete it and download it again",
        )
    return next((WrongContent(what, remedy) for magic, what, remedy in MAGIC if head.startswith(magic)), None)


def _zip(head: bytes) -> WrongContent:
    numpy = b".npy" in head
    return (
        WrongContent("an archive of NumPy's arrays", AS_SAFETENSORS)
        if numpy
        else WrongContent("a zip archive", UNPACKED)
    )


MARKUP = re.compile(
    r"(<!--.{0,1000}?-->\s*)?<(!doctype|\?xml|html|head|title|body|meta|script|svg|error|listbucketresult|code)\b",
    re.IGNORECASE | re.DOTALL,
)
TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)
CODE = re.compile(r"<code>\s*([\w.]{1,80})\s*</code>", re.IGNORECASE)
XML = re.compile(r"<(\?xml|error|listbucketresult|code)\b", re.IGNORECASE)


def _markup(head: bytes) -> WrongContent | None:
    text = _text(head)
    if not MARKUP.match(text):
        return None
    if XML.match(text) and "<html" not in text.lower():
        code = CODE.search(text)
        details = f", as a server answers that fails: {shown(code[1])}" if code else ", as a server answers that fails"
        return WrongContent(
            f"an XML document{details}", "Download it again, with the right name and the right to read it"
        )
    title = TITLE.search(text)
    details = f" ({shown(title[1])})" if title else ""
    return WrongContent(
        f"a web page in HTML{details}",
        "Download the file itself, not the page that shows it or that asks for a login: `hf download` does",
    )


LFS = re.compile(
    r"version\s+https?://(git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/"
    r"|# git-media\b|oid sha256:[0-9a-f]{64}"
)
LFS_SIZE = re.compile(r"^size (\d{1,19})\s*$", re.MULTILINE)
XET = re.compile(r"#\s*xet version\b")
ANNEX = re.compile(r"\S*\bannex/objects/\S+\s*$")
DVC = re.compile(r"(outs|md5):.{0,200}\bmd5: ?[0-9a-f]{32}", re.DOTALL)


def _pointer(head: bytes) -> WrongContent | None:
    text = _text(head)
    if LFS.match(text):
        size = LFS_SIZE.search(text)
        of = f"a file of {int(size[1]):,} bytes that was" if size else "a file that was"
        return WrongContent(f"a git-lfs pointer, which stands for {of} not fetched", FETCHED)
    if XET.match(text):
        return WrongContent(
            "a pointer of git-xet, which stands for a file that was not fetched",
            "Fetch it with git-xet in the clone of the repository, or download the checkpoint with `hf download`",
        )
    if ANNEX.match(text):
        return WrongContent(
            "a pointer of git-annex, which stands for a file that was not fetched",
            "Fetch it with `git annex get` in the clone of the repository",
        )
    if DVC.match(text):
        return WrongContent(
            "a pointer of DVC, which stands for a file that was not fetched", "Fetch it with `dvc pull`"
        )
    return None


LINK = re.compile(r"(\.{1,2}[/\\]|/)[^\s{}<>\"'*|]{1,1000}\s*$")


def _link(head: bytes) -> WrongContent | None:
    if len(head) >= HEAD_BYTES or not LINK.match(text := _text(head)):
        return None
    return WrongContent(
        f"no more than the text {shown(text.strip())}, where a symbolic link leads that was copied as text",
        "Copy the checkpoint with the files that its links lead to (`cp -rL`), or download it again",
    )


ANSWER = re.compile(
    r"(entry not found|repository not found|revision not found|invalid (username|credentials)|access denied"
    r"|access to \S.{0,200} is restricted|cannot access gated repo|not found\b|[45]\d\d[ :]"
    r"|[45]\d\d\s*$|forbidden\s*$|unauthorized\s*$|internal server error|service unavailable|too many requests"
    r"|bad gateway|gateway time-?out|file not found|no such (key|file|bucket)|moved permanently"
    r"|temporary redirect|found\. redirecting|the requested url|rate limit|page not found|request has expired"
    r"|http/\d|curl: \(|wget: |an error occurred|traceback \(most recent|fatal: "
    r"|error\s*:|upstream connect error|client error|server error)",
    re.IGNORECASE,
)
ERROR_FIELDS = frozenset({"error", "errors", "message", "detail", "details", "error_description", "errorMessage"})
ERROR_OBJECT_FIELDS = ERROR_FIELDS | {
    "status", "statusCode", "status_code", "code", "errorCode", "success", "ok", "type", "path", "timestamp", "url",
    "requestId", "request_id", "documentation_url", "title", "reason", "name", "cause",
}  # fmt: skip
LONGEST_ERROR = 2000


def _server_error(head: bytes) -> WrongContent | None:
    """An error of a server in the place of the file: a line, or an object with nothing but an error."""
    if len(head) > LONGEST_ERROR:
        return None
    text = _text(head)
    if ANSWER.match(text):
        first = (text.strip().splitlines() or [""])[0]
        return WrongContent(f"the answer of a server that failed: {shown(first)}", AGAIN)
    error = next(_errors(text), None)
    return WrongContent(f"the answer of a server that failed: {shown(error)}", AGAIN) if error is not None else None


def _errors(text: str) -> Iterator[object]:
    if not text.startswith("{"):
        return
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(answer, dict) and answer.keys() & ERROR_FIELDS and answer.keys() <= ERROR_OBJECT_FIELDS:
        yield from (answer[name] for name in answer if name in ERROR_FIELDS)


BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


def _text(head: bytes) -> str:
    """The head as text, without a byte order mark and leading space."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, errors="replace").lstrip()
    return head.decode("utf-8", errors="replace").lstrip()
