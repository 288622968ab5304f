"""Says what is happening and how long it took; long steps tell how far they are while they run."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REPORT_EVERY_SECONDS = 15.0


def say(sentence: str) -> None:
    print(sentence, flush=True)


@contextmanager
def step(title: str, detail: Callable[[], str] = str) -> Iterator[None]:
    """Print `title` with the seconds it took; while it runs, `detail` of it every few seconds."""
    started = time.monotonic()
    done = threading.Event()
    reporter = threading.Thread(target=_report, args=(title, detail, started, done), daemon=True)
    reporter.start()
    try:
        yield
    except BaseException:
        print(f"  ✗ {title} ({time.monotonic() - started:.1f} s)", file=sys.stderr, flush=True)
        raise
    else:
        say(f"  ✓ {title} ({time.monotonic() - started:.1f} s)")
    finally:
        done.set()
        reporter.join()


def _report(title: str, detail: Callable[[], str], started: float, done: threading.Event) -> None:
    while not done.wait(REPORT_EVERY_SECONDS):
        say(f"  … {title}: {time.monotonic() - started:.0f} s {detail()}".rstrip())
