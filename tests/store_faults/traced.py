"""Runs a piece of work in a process of its own, and lets a judge decide about each of its changes below a directory."""

import errno
import faulthandler
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tests.store_faults import calls, ptrace
from tests.store_faults.calls import Call
from tests.waiting import PATIENCE_SECONDS


class Verdict(Enum):
    GO_ON = "the call is made"
    KILL = "the process is killed before the call"


@dataclass(frozen=True)
class Answer:
    """The call is not made and returns this."""

    returned: int


class Judge(Protocol):
    @property
    def quiet(self) -> bool:
        """Whether every other thread has to stand still while it judges."""

    def judge(self, number: int, call: Call) -> Verdict | Answer:
        """About the `number`-th change below the root, from 1 on."""


@dataclass(frozen=True)
class Outcome:
    """`changes` are the calls in their order, those that were answered instead included; `value` is what the work
    returned, unless it was killed, at the last of `changes`."""

    changes: tuple[Call, ...]
    killed: bool
    value: Any = None


@dataclass(frozen=True)
class KillAt:
    """Before the `number`-th change that has a name without `passing` in it. Syncs don't count and are left out: what
    they change, only a power cut would show, and they are slow."""

    number: int
    passing: str = "\0"
    quiet: bool = field(default=False, init=False)
    _counted: list[Call] = field(default_factory=list, init=False)

    def judge(self, number: int, call: Call) -> Verdict | Answer:
        if call.name in calls.SYNCS:
            return Answer(0)
        if not all(self.passing in path for path in call.paths):
            self._counted.append(call)
            if len(self._counted) == self.number:
                return Verdict.KILL
        return Verdict.GO_ON


@dataclass(frozen=True)
class FullFrom:
    """The disk is full at the `number`-th call that could ask it for room, and at the next ones too, or only there."""

    number: int
    once: bool = False
    quiet: bool = field(default=False, init=False)
    _asked: list[Call] = field(default_factory=list, init=False)

    def judge(self, number: int, call: Call) -> Verdict | Answer:
        if call.name in calls.SYNCS:
            return Answer(0)
        if call.name not in calls.GROWS:
            return Verdict.GO_ON
        self._asked.append(call)
        full = len(self._asked) == self.number or (len(self._asked) > self.number and not self.once)
        return Answer(-errno.ENOSPC) if full else Verdict.GO_ON


@dataclass(frozen=True)
class HoldAt:
    """The process stands still, as after SIGSTOP, before the `number`-th of the changes that `names` names: the file
    `held` is there then, and it goes on when that is gone."""

    number: int
    held: Path
    names: frozenset[str]
    quiet: bool = field(default=True, init=False)
    _counted: list[Call] = field(default_factory=list, init=False)

    def judge(self, number: int, call: Call) -> Verdict | Answer:
        if call.name in calls.SYNCS:
            return Answer(0)
        if call.name in self.names:
            self._counted.append(call)
            if len(self._counted) == self.number:
                self.held.write_text(f"{call.name} {' '.join(call.paths)}")
                while self.held.exists():
                    time.sleep(0.005)
        return Verdict.GO_ON


def run(work: Callable[[], object]) -> Any:
    """What `work` returns, from a process of its own that nobody follows. Raises AssertionError with its traceback."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        _work(work, send)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(child, 0)
    return _value(raw, status)


def follow(work: Callable[[], object], root: Path, judge: Judge) -> Outcome:
    """Raises AssertionError with the traceback of a work that fails; NotPermitted."""
    receive, send = os.pipe()
    start, go = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        os.close(go)
        os.read(start, 1)
        _work(work, send, calls.stop_before_changes)
    os.close(send)
    os.close(start)
    try:
        ptrace.seize(child)
        os.write(go, b"!")
        tracer = _Tracer(child, root, judge)
        tracer.follow()
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(go)
    with os.fdopen(receive, "rb") as pipe:
        raw = pipe.read()
    if tracer.killed:
        return Outcome(tuple(tracer.changes), killed=True)
    return Outcome(tuple(tracer.changes), killed=False, value=_value(raw, tracer.status))


def _work(work: Callable[[], object], send: int, first: Callable[[], None] = lambda: None) -> NoReturn:
    """The whole life of a child: nothing of its parent's is closed or flushed at its end. One that hangs says where."""
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    try:
        first()
        result: tuple[bool, object] = (True, work())
    except BaseException:
        result = (False, traceback.format_exc())
    try:
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(result, pipe)
        sys.stderr.flush()
    finally:
        os._exit(0)


def _value(raw: bytes, status: int) -> Any:
    if not raw:
        raise AssertionError(f"the process ended with {os.waitstatus_to_exitcode(status)} and returned nothing")
    succeeded, value = pickle.loads(raw)
    if not succeeded:
        raise AssertionError(f"in the process that was followed:\n{value}")
    return value


class _Tracer:
    """Threads that stopped while others were waited for are dealt with in their turn."""

    def __init__(self, child: int, root: Path, judge: Judge) -> None:
        self.child = child
        self.root = root
        self.judge = judge
        self.changes: list[Call] = []
        self.killed = False
        self.status = 0
        self._ended = False
        self._running = {child}
        self._stopped: list[tuple[int, int]] = []

    def follow(self) -> None:
        while (stop := self._next()) is not None:
            thread, status = stop
            with suppress(ProcessLookupError):  # killed meanwhile
                self._deal_with(thread, status)

    def _next(self) -> tuple[int, int] | None:
        """None when the process has ended."""
        if self._stopped:
            return self._stopped.pop(0)
        return None if self._ended else self._wait()

    def _wait(self, options: int = 0) -> tuple[int, int] | None:
        """The next stop of any thread; None: the process has ended, or with WNOHANG there is none."""
        while True:
            thread, status = os.waitpid(-1, ptrace.WALL | options)
            if not thread:
                return None
            if os.WIFSTOPPED(status):
                self._running.discard(thread)
                return thread, status
            self._running.discard(thread)
            if thread == self.child:
                self.status, self._ended = status, True
                return None

    def _deal_with(self, thread: int, status: int) -> None:
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == ptrace.EVENT_SECCOMP:
            self._change(thread)
        else:
            self._go_on(thread, 0 if event or number == signal.SIGTRAP else number)

    def _go_on(self, thread: int, number: int = 0) -> None:
        ptrace.go_on(thread, number)
        self._running.add(thread)

    def _change(self, thread: int) -> None:
        found = ptrace.registers(thread)
        call = calls.about_to(thread, found)
        if self.killed or not call.below(self.root):
            self._go_on(thread)
            return
        self.changes.append(call)
        if self.judge.quiet:
            self._silence()
        verdict = self.judge.judge(len(self.changes), call)
        if verdict is Verdict.KILL:
            self.killed = True
            os.kill(self.child, signal.SIGKILL)
            return
        if isinstance(verdict, Answer):
            ptrace.answer_instead(thread, found, verdict.returned)
        self._go_on(thread)

    def _silence(self) -> None:
        """Wait until no thread runs; what they were doing then is dealt with later."""
        for thread in list(self._running):
            try:
                ptrace.interrupt(thread)
            except ProcessLookupError:
                self._running.discard(thread)
        while self._running and not self._ended:
            if stop := self._wait(os.WNOHANG):
                self._stopped.append(stop)
            else:
                time.sleep(0.0002)
                self._running = {thread for thread in self._running if self._lives(thread)}

    def _lives(self, thread: int) -> bool:
        return Path(f"/proc/{self.child}/task/{thread}").exists()
