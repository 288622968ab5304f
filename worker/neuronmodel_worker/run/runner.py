"""One run of the worker, from its first line to its exit code: configuration, signals, and the last report."""

import errno
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from neuronmodel_api import exits, names
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Failure, Stage
from neuronmodel_api.sources import NetworkSourceConfig
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.disk import open_many_files
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import ConfigurationInvalid, Run
from neuronmodel_worker.run.signals import TerminatedBySignal, stop_on_signals, termination_signal

log = logging.getLogger(__name__)

Command = Callable[[Run], None]


def run_command(
    stage: Stage,
    load: Callable[[], Command],
    config_file: Path | None,
    termination_log: Path | None,
    first_line: FirstLine,
    environment: Mapping[str, str],
) -> int:
    """Runs the command that `load` imports, and returns the exit code.

    Every failure is one sentence on stderr and in the last report; only a bug also has a traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    open_many_files()
    default_log = Path(names.TERMINATION_LOG)
    log_file = termination_log or (default_log if default_log.exists() else None)
    pod_uid = environment.get(names.ENV_POD_UID, "")
    try:
        config = read_config(config_file, environment)
    except ConfigurationInvalid as failure:
        clock = StartClock(stage, first_line, pod_uid=pod_uid)
        clock.failed(_failure_report(failure, None))
        return _finish(clock, failure.exit_code, log_file)
    clock = StartClock(stage, first_line, pod_uid=pod_uid, spec_hash=config.spec_hash)
    code = _run(Run(config, clock), load)
    return _finish(clock, code, log_file)


def read_config(file: Path | None, environment: Mapping[str, str]) -> WorkerConfig:
    """Reads the configuration from the file, or from the environment if there is none. Raises ConfigurationInvalid."""
    where = str(file) if file else f"The variable {names.ENV_CONFIG}"
    try:
        raw = file.read_bytes() if file else environment[names.ENV_CONFIG]
        return WorkerConfig.model_validate_json(raw)
    except KeyError:
        raise ConfigurationInvalid(
            f"There is no configuration: name a file with --config, or set {names.ENV_CONFIG}."
        ) from None
    except OSError as error:
        raise ConfigurationInvalid(f"{where} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its start"
        raise ConfigurationInvalid(f"{where} is no configuration of a worker: at {place}, {first['msg']}.") from None


def _run(run: Run, load: Callable[[], Command]) -> int:
    """Runs the command and reports what ended it. Serving ends when it is asked to; everything else ends here."""
    stop_on_signals()
    try:
        load()(run)
    except TerminatedBySignal:
        return _terminated(run.clock)
    except Exception as error:
        if termination_signal():
            return _terminated(run.clock)
        if isinstance(error, WorkerFailure):
            run.clock.failed(_failure_report(error, run.config))
            return error.exit_code
        log.exception("unforeseen")
        return _crashed(run.clock, error)
    run.clock.succeeded()
    return exits.OK


def _terminated(clock: StartClock) -> int:
    clock.failed(Failure(reason=Reason.TERMINATED, message="The worker was told to stop before it was done."))
    return exits.TERMINATED


def _crashed(clock: StartClock, error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"A volume is full: {error}. Enlarge it, or delete what is no longer used."
        clock.failed(Failure(reason=Reason.VOLUME_FULL, message=what))
        return exits.NO_SPACE
    what = f"{type(error).__name__}: {error}. This is a mistake in the worker; its log has the traceback."
    clock.failed(Failure(reason=Reason.WORKER_CRASHED, message=what))
    return exits.FAILED


def _failure_report(failure: WorkerFailure, config: WorkerConfig | None) -> Failure:
    """Converts the failure. The source's path in the pod is replaced by the name that the user knows it by."""
    message = str(failure)
    if config and config.source_path and config.source_display:
        message = message.replace(config.source_path, config.source_display)
    source = config and config.network_source
    if source and (absent := _absent(failure.reason, source)):
        message = f"{message} {absent}"
    return Failure(reason=failure.reason, message=message, final=failure.exit_code in exits.FINAL)


def _absent(reason: str, source: NetworkSourceConfig) -> str:
    """Returns a sentence on what the source is read with and is not there, if the failure may come of that. Keys of a
    bucket are needed in any case: their absence is a failure of its own."""
    missing = (file for file in source.optional_files if reason in file.explains and not Path(file.path).exists())
    return next((file.absence for file in missing), "")


def _finish(clock: StartClock, code: int, log_file: Path | None) -> int:
    report = clock.snapshot()
    if report.failure:
        sys.stderr.write(f"neuronmodel: {report.failure.reason}: {report.failure.message}\n")
    if log_file:
        with suppress(OSError):  # the report is at /status and in the log too, so this is no reason to fail
            log_file.write_text(report.termination_message(), encoding="utf-8")
    return code
