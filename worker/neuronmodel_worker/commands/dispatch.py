"""Runs one host command, from its options to its exit code: any failure is one line on standard error."""

import argparse
import os
import signal
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from neuronmodel_api import exits
from neuronmodel_worker.commands.arguments import COMMANDS
from neuronmodel_worker.commands.terminal import print_note, show_any_name
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.disk import open_many_files
from neuronmodel_worker.run.signals import TerminatedBySignal, stop_on_signals, termination_signal

ENV_DEBUG = "NEURONMODEL_DEBUG"
BROKEN_PIPE = 128 + signal.SIGPIPE

Command = Callable[[argparse.Namespace], None]


def run_host_command(options: argparse.Namespace) -> int:
    """Returns the exit code; see neuronmodel_api.exits. A signal's is 128 + its number."""
    try:
        stop_on_signals()
        show_any_name()
        open_many_files()
        _command(options.command)(options)
    except TerminatedBySignal as stopped:
        return _stopped(options.command, stopped)
    except WorkerFailure as failure:
        print_note(options.command, str(failure))
        return failure.exit_code
    except BrokenPipeError:  # the reader is gone, as after `| head`
        return BROKEN_PIPE
    except MemoryError:
        print_note(options.command, "There is not enough memory. Use fewer threads, or a machine with more of it.")
        return exits.TRANSIENT
    except PermissionError as error:
        print_note(options.command, f"{error.filename} cannot be reached: {error.strerror}. Run it as a user who may.")
        return exits.TRANSIENT
    except Exception as error:
        if stopped_instead := termination_signal():
            return _stopped(options.command, stopped_instead)
        print_note(options.command, _unforeseen(error))
        return exits.FAILED
    return exits.OK


def _stopped(command: str, stopped: TerminatedBySignal) -> int:
    print_note(command, f"Stopped by {stopped} before it was done; nothing half-done was left behind.")
    return stopped.exit_code


def _command(name: str) -> Command:
    """Imports the command's module, and with it only what this command needs."""
    module = import_module(f"neuronmodel_worker.{COMMANDS[name].module}")
    return cast("Command", getattr(module, name.replace("-", "_")))


def _unforeseen(error: Exception) -> str:
    if os.environ.get(ENV_DEBUG):
        traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}. This is not foreseen; "
        f"set {ENV_DEBUG}=1 to see where it comes from, and tell us."
    )
