"""A process that has imported everything and forks a child for each piece of work: starting Python would take longer
than the work. It is no thread's parent, so forking it is safe."""

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.paths import PROJECT
from tests.store_faults import traced
from tests.store_faults.traced import Judge, Outcome


class ForkServer:
    """Work is what pickles: a function of a module with its arguments, as functools.partial has them."""

    def __init__(self, asks: IO[bytes], answers: IO[bytes]) -> None:
        self._asks = asks
        self._answers = answers

    def run(self, work: Callable[[], object]) -> Any:
        """See traced.run."""
        return self._ask((work, None, None))

    def follow(self, work: Callable[[], object], root: Path, judge: Judge) -> Outcome:
        """See traced.follow."""
        outcome = self._ask((work, root, judge))
        assert isinstance(outcome, Outcome)
        return outcome

    def _ask(self, question: object) -> Any:
        pickle.dump(question, self._asks)
        self._asks.flush()
        succeeded, value = pickle.load(self._answers)
        if not succeeded:
            raise value
        return value


@contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Ends with the context, and with this process."""
    command = [sys.executable, "-m", __name__]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin
        assert process.stdout
        yield ForkServer(process.stdin, process.stdout)
        process.stdin.close()


def _serve(asks: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            work, root, judge = pickle.load(asks)
        except EOFError:
            return
        try:
            answer = (True, traced.follow(work, root, judge) if root else traced.run(work))
        except Exception as failure:
            answer = (False, failure)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    import tests.store_faults.jobs  # noqa: F401

    # What prints to stdout must not reach the answers.
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.freeze()
    _serve(sys.stdin.buffer, own)
