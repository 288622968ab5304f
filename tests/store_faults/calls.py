"""System calls that change a file system: their numbers on x86-64, and which files one is about."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.store_faults import ptrace

AT_CWD = -100

# name → (number, where its arguments name files). "d": a descriptor; "p": a path; "@": a directory's descriptor and a
# path below it. A call may name two.
CHANGES: Final[dict[str, tuple[int, dict[int, str]]]] = {
    "write": (1, {0: "d"}),
    "pwrite64": (18, {0: "d"}),
    "writev": (20, {0: "d"}),
    "sendfile": (40, {0: "d"}),
    "fsync": (74, {0: "d"}),
    "fdatasync": (75, {0: "d"}),
    "truncate": (76, {0: "p"}),
    "ftruncate": (77, {0: "d"}),
    "rename": (82, {0: "p", 1: "p"}),
    "mkdir": (83, {0: "p"}),
    "rmdir": (84, {0: "p"}),
    "creat": (85, {0: "p"}),
    "link": (86, {0: "p", 1: "p"}),
    "unlink": (87, {0: "p"}),
    "symlink": (88, {1: "p"}),
    "chmod": (90, {0: "p"}),
    "fchmod": (91, {0: "d"}),
    "chown": (92, {0: "p"}),
    "fchown": (93, {0: "d"}),
    "lchown": (94, {0: "p"}),
    "utime": (132, {0: "p"}),
    "mknod": (133, {0: "p"}),
    "setxattr": (188, {0: "p"}),
    "fsetxattr": (190, {0: "d"}),
    "utimes": (235, {0: "p"}),
    "mkdirat": (258, {0: "@"}),
    "mknodat": (259, {0: "@"}),
    "fchownat": (260, {0: "@"}),
    "unlinkat": (263, {0: "@"}),
    "renameat": (264, {0: "@", 2: "@"}),
    "linkat": (265, {0: "@", 2: "@"}),
    "symlinkat": (266, {1: "@"}),
    "fchmodat": (268, {0: "@"}),
    "splice": (275, {2: "d"}),
    "sync_file_range": (277, {0: "d"}),
    "utimensat": (280, {0: "@"}),
    "fallocate": (285, {0: "d"}),
    "pwritev": (296, {0: "d"}),
    "syncfs": (306, {0: "d"}),
    "renameat2": (316, {0: "@", 2: "@"}),
    "copy_file_range": (326, {2: "d"}),
    "pwritev2": (328, {0: "d"}),
    "openat2": (437, {0: "@"}),
    "fchmodat2": (452, {0: "@"}),
}
CREATING = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
OPENS: Final[dict[str, tuple[int, dict[int, str], int]]] = {
    "open": (2, {0: "p"}, 1),
    "openat": (257, {0: "@"}, 2),
}
"""With the argument that says whether the file is made or emptied."""

SYNCS = frozenset({"fsync", "fdatasync", "sync_file_range", "syncfs"})
GROWS = frozenset(
    {*OPENS, "openat2", "creat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice"}
    | {"copy_file_range", "ftruncate", "truncate", "fallocate", "mkdir", "mkdirat", "mknod", "mknodat", "link"}
    | {"linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2"}
)
"""What a full disk may refuse."""

_NAMES = {number: (name, files) for name, (number, files) in CHANGES.items()} | {
    number: (name, files) for name, (number, files, _) in OPENS.items()
}


@dataclass(frozen=True)
class Call:
    """A system call that is about to be made on `paths`."""

    name: str
    paths: tuple[str, ...]

    def below(self, root: Path) -> bool:
        return any(path == str(root) or path.startswith(f"{root}/") for path in self.paths)

    def describe(self, root: Path) -> str:
        return f"{self.name} {' '.join(path.removeprefix(f'{root}/') for path in self.paths)}"


def stop_before_changes() -> None:
    """See ptrace.stop_before. What is written through a mapping is not seen."""
    flags = [(number, argument, CREATING) for number, _, argument in OPENS.values()]
    ptrace.stop_before([number for number, _ in CHANGES.values()], flags)


def about_to(thread: int, found: ptrace.Registers) -> Call:
    """What the thread, which is stopped there, is about to do."""
    name, files = _NAMES[found.number]
    return Call(name, tuple(_path(thread, found.arguments, at, kind) for at, kind in files.items()))


def _path(thread: int, arguments: tuple[int, ...], at: int, kind: str) -> str:
    if kind == "d":
        return _target(thread, arguments[at])
    directory = _signed(arguments[at]) if kind == "@" else AT_CWD
    path = _string(thread, arguments[at + 1 if kind == "@" else at])
    base = _link(thread, "cwd") if directory == AT_CWD else _target(thread, directory)
    return os.path.normpath(Path(base, path))


def _signed(argument: int) -> int:
    return (argument & 0xFFFFFFFF) - (1 << 32 if argument & 0x80000000 else 0)


def _target(thread: int, descriptor: int) -> str:
    return _link(thread, f"fd/{descriptor & 0xFFFFFFFF}")


def _link(thread: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{thread}/{name}").readlink())
    except FileNotFoundError:
        return f"no file: {name}"


def _string(thread: int, address: int) -> str:
    """At that address, up to its zero; read page by page, as the next page may not be there. No address: the
    directory's descriptor is meant, as futimens does it."""
    if not address:
        return ""
    found = b""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        while b"\0" not in found:
            memory.seek(address + len(found))
            if not (part := memory.read(4096 - (address + len(found)) % 4096)):
                return ""
            found += part
    return os.fsdecode(found.partition(b"\0")[0])
