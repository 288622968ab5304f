"""Linux's ptrace and seccomp, as far as these tests need them: x86-64, ctypes, nothing to install."""

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

# <linux/ptrace.h>
CONT, GETREGS, SETREGS, GETEVENTMSG, SEIZE, INTERRUPT = 7, 12, 13, 0x4201, 0x4206, 0x4207
FOLLOW_FORK, FOLLOW_VFORK, FOLLOW_CLONE, STOP_AT_SECCOMP, EXIT_KILL = 1 << 1, 1 << 2, 1 << 3, 1 << 7, 1 << 20
OPTIONS = FOLLOW_FORK | FOLLOW_VFORK | FOLLOW_CLONE | STOP_AT_SECCOMP | EXIT_KILL
EVENT_SECCOMP, EVENT_STOP = 7, 128
WALL = 0x40000000
"""waitpid: threads too, not processes alone."""

# <linux/prctl.h>, <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>
SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2
ALLOW, TRACE = 0x7FFF0000, 0x7FF00000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
X86_64 = 0xC000003E
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16


REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)


class Registers(ctypes.Structure):
    """`user_regs_struct`."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]
    rax: int
    orig_rax: int

    @property
    def number(self) -> int:
        return self.orig_rax

    @property
    def arguments(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in ("rdi", "rsi", "rdx", "r10", "r8", "r9"))


class NotPermitted(Exception):
    """This machine does not let one process follow another."""


def not_permitted(what: str, why: str) -> NotPermitted:
    return NotPermitted(
        f"These tests follow a process with ptrace and seccomp, and {what} is refused here ({why}). Run them on Linux "
        "x86-64; in a container with --cap-add SYS_PTRACE and a seccomp profile that permits both."
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]


def _ptrace(request: int, thread: int, data: "ctypes._Pointer[Registers] | int" = 0) -> None:
    """Raises ProcessLookupError for a thread that is gone meanwhile, and other OSErrors."""
    if _libc.ptrace(request, thread, None, ctypes.cast(data, ctypes.c_void_p)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def seize(process: int) -> None:
    """Follow that process and whatever it starts, until it ends; it ends with its tracer. Raises NotPermitted."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise not_permitted("that", f"{platform.system()} {platform.machine()}")
    try:
        _ptrace(SEIZE, process, OPTIONS)
    except OSError as error:
        raise not_permitted("ptrace", error.strerror or str(error)) from error


def go_on(thread: int, signal: int = 0) -> None:
    _ptrace(CONT, thread, signal)


def interrupt(thread: int) -> None:
    """Have it stop where it is, or after the system call that it is in."""
    _ptrace(INTERRUPT, thread)


def registers(thread: int) -> Registers:
    found = Registers()
    _ptrace(GETREGS, thread, ctypes.pointer(found))
    return found


def answer_instead(thread: int, found: Registers, returned: int) -> None:
    """At a stop before a system call: don't make it, and return that."""
    found.orig_rax = (1 << 64) - 1
    found.rax = returned % (1 << 64)
    _ptrace(SETREGS, thread, ctypes.pointer(found))


def stop_before(calls: Iterable[int], calls_with: Iterable[tuple[int, int, int]]) -> None:
    """Have the kernel stop this process, which is traced, before every one of the system calls `calls`, and before
    those of `calls_with` (number, argument, bits) where one of the bits is set in that argument. Threads inherit it.

    Raises NotPermitted.
    """
    program = _instructions(calls, calls_with)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in program))
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    if _libc.prctl(SET_NO_NEW_PRIVS, 1, None, 0, 0) or _libc.prctl(SET_SECCOMP, MODE_FILTER, head, 0, 0):
        raise not_permitted("seccomp", os.strerror(ctypes.get_errno()))


def _instructions(calls: Iterable[int], calls_with: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """(code, instructions to jump over when true, when false, operand) of a filter in the kernel's own language."""
    program = [(LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 1, 0, X86_64), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, NUMBER_AT)]
    for number in calls:
        program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, TRACE)]
    for number, argument, bits in calls_with:
        low = ARGUMENTS_AT + 8 * argument
        program += [(EQUAL, 0, 4, number), (LOAD, 0, 0, low), (ANY_BIT, 0, 1, bits), (RETURN, 0, 0, TRACE)]
        program += [(RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, ALLOW)]
