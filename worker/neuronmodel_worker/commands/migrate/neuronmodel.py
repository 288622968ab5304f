"""Builds the NeuronModel that does what an `inference_demo` command does, and lists what it does not carry."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuronmodel_api.config import Engine, Server
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES
from neuronmodel_api.names import GROUP, INSTANCE_TYPE_LABEL
from neuronmodel_worker.commands.migrate.compile_fields import FILL_IN_REASON, MODULES_FILE, CompileFields
from neuronmodel_worker.commands.migrate.environment import Environment, read_environment
from neuronmodel_worker.commands.migrate.given_flags import InferenceDemoCommand, LeftOut
from neuronmodel_worker.commands.migrate.inference_demo_flags import FORMER, NOT_CARRIED
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.options import Choices, model_name
from neuronmodel_worker.commands.migrate.parallelism import CommandParallelism, read_parallelism
from neuronmodel_worker.commands.migrate.shell_script import Correction
from neuronmodel_worker.commands.migrate.volumes import artifacts, model_place, scratch, source
from neuronmodel_worker.commands.migrate.yaml_document import Commented
from neuronmodel_worker.engines.llama_shape import FAMILY as CPU_FAMILY
from neuronmodel_worker.engines.nxdi.application import TASK

MODEL_TYPE = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)
FP8_VARIABLES: Final = ("XLA_HANDLE_SPECIAL_SCALAR", "UNSAFE_FP8FNCAST")
"""The command sets these to 1 for 8-bit floats."""

# By --save-sharded-checkpoint and --skip-sharding.
STRATEGIES: Final = {
    (True, False): (
        "--save-sharded-checkpoint: one file a rank, written once, before the first start; every start reads these. No "
        "--skip-sharding is needed later: what is sealed is found."
    ),
    (True, True): (
        "--save-sharded-checkpoint and --skip-sharding: every start reads one file a rank. What is sealed is found; "
        "where nothing is, the shards are written once, before the first start."
    ),
    (False, False): "No --save-sharded-checkpoint: every start shards the checkpoint as it loads, and keeps no shards.",
    (False, True): (
        "--skip-sharding without --save-sharded-checkpoint skips nothing: the command shards at every load, silently, "
        "and so does this. ShardOnCompile is what reads shards that were written once."
    ),
}


@dataclass(frozen=True)
class Converted:
    """The NeuronModel, what of the command it does not carry, and what was read otherwise than a shell would."""

    document: Mapping[str, Any]
    left_out: tuple[LeftOut, ...]
    corrections: tuple[Correction, ...] = ()


def convert(command: InferenceDemoCommand, choices: Choices) -> Converted:
    """Raises NotUnderstood and UsageInvalid."""
    _check_types(command)
    parallelism = read_parallelism(command)
    fields = CompileFields(command, parallelism.degree, parallelism.ranks)
    fields.check()
    _check_cpu(command, parallelism, fields)
    environment = read_environment(command.invocation)
    spec = {
        "engine": Commented(Engine.CPU.value, "--on-cpu.") if _on_cpu(command) else Engine.NEURON.value,
        "model": {"source": source(command, choices), "type": command.value("--model-type")},
        "parallelism": parallelism.spec(),
        "compile": fields.compile(),
        "sharding": _sharding(command, fields),
        "artifacts": artifacts(command, choices),
        "scratch": scratch(copies=not fields.without_layout()),
        "worker": _worker(fields, environment, parallelism, choices),
        "serving": _serving(fields),
        "suspend": _suspend(command, parallelism),
    }
    document = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "NeuronModel",
        "metadata": {"name": choices.name or model_name(model_place(command, choices))},
        "spec": {name: value for name, value in spec.items() if value is not None},
    }
    left_out = [*_left_out(command, fields), *parallelism.left_out, *fields.left_out(), *environment.left_out]
    by_line = sorted(left_out, key=lambda each: each.line)
    return Converted(document, tuple(by_line), command.corrections)


def _check_types(command: InferenceDemoCommand) -> None:
    if (task := command.value("--task-type")) != TASK:
        raise NotUnderstood(command.line("--task-type"), f"--task-type is {task!r}, and a NeuronModel serves {TASK}.")
    if not MODEL_TYPE.fullmatch(model_type := command.value("--model-type")):
        raise NotUnderstood(
            command.line("--model-type"),
            f"--model-type is {model_type!r}, which is no model type of NxD Inference's. Write one, such as llama.",
        )


def _check_cpu(command: InferenceDemoCommand, parallelism: CommandParallelism, fields: CompileFields) -> None:
    """Raises NotUnderstood for what `prepare` would refuse with `engine: CPU`."""
    if not _on_cpu(command):
        return
    if (model_type := command.value("--model-type")) != CPU_FAMILY:
        what = f"the CPU engine runs models of type {CPU_FAMILY}, and this one is of type {model_type}"
    elif parallelism.is_partial:
        what = "the CPU engine computes all ranks in one process, and a part of them is asked for"
    elif fields.server is Server.VLLM:
        what = f"the CPU engine has no server that takes {' and '.join(fields.vllm_fields)}"
    else:
        return
    raise NotUnderstood(command.line("--on-cpu"), f"--on-cpu does not fit: {what}. Leave out one of them.")


def _on_cpu(command: InferenceDemoCommand) -> bool:
    return "--on-cpu" in command


def _left_out(command: InferenceDemoCommand, fields: CompileFields) -> Iterator[LeftOut]:
    for name, flag in {**NOT_CARRIED, **FORMER}.items():
        if name in command and name != "--task-type":
            reason = FILL_IN_REASON if name == MODULES_FILE and fields.needs_module_list else flag.reason
            yield LeftOut(command.line(name), name, reason)
    if "--skip-sharding" in command and "--save-sharded-checkpoint" not in command:
        reason = "without --save-sharded-checkpoint the command shards at every load all the same"
        yield LeftOut(command.line("--skip-sharding"), "--skip-sharding", reason)
    if (output := command.invocation.output) is not None:
        yield LeftOut(output.line, output.shown, "`kubectl logs` shows what the worker says")


def _sharding(command: InferenceDemoCommand, fields: CompileFields) -> dict[str, Any]:
    saves, skips = "--save-sharded-checkpoint" in command, "--skip-sharding" in command
    strategy = Commented("ShardOnCompile" if saves else "ShardOnLoad", STRATEGIES[saves, skips])
    without = " and ".join(fields.without_layout())
    if not without:
        return {"strategy": strategy}
    if _on_cpu(command):
        raise NotUnderstood(
            command.line("--on-cpu"), f"The CPU engine has no layout for {without}. Leave out one of them."
        )
    native = Commented(
        "Native", f"NxD Inference's own code lays out the weights: there is no layout of ours for {without}."
    )
    return {"strategy": strategy, "weights": native}


def _worker(
    fields: CompileFields, environment: Environment, parallelism: CommandParallelism, choices: Choices
) -> dict[str, Any] | None:
    worker: dict[str, Any] = {}
    if kind := choices.instance_type:
        worker["nodeSelector"] = Commented({INSTANCE_TYPE_LABEL: kind}, _about_cores(kind, parallelism))
    variables: list[Any] = [{"name": name, "value": value} for name, value in environment.worker.items()]
    for name in FP8_VARIABLES if fields.uses_fp8 else ():
        if name not in environment.worker:
            variables.append(Commented({"name": name, "value": "1"}, "As the command itself sets it for 8-bit floats."))
    if variables:
        worker["env"] = variables
    return worker or None


def _about_cores(kind: str, parallelism: CommandParallelism) -> str:
    machine = MACHINES.get(kind)
    if machine is None:
        return f"Absent: {DEFAULT_MACHINE.name}."
    cores = parallelism.logical_cores or max(machine.logical_core_configs)
    return f"{machine.logical_cores(cores)} logical cores, for {len(parallelism.ranks)} ranks."


def _serving(fields: CompileFields) -> dict[str, Any] | None:
    if fields.server is Server.OPENAI:
        return None
    reason = f"For {' and '.join(fields.vllm_fields)}: a server that places sequences in the cache by itself."
    return {"server": Commented(fields.server.value, reason)}


def _suspend(command: InferenceDemoCommand, parallelism: CommandParallelism) -> Commented | None:
    reasons = []
    if "--compile-only" in command:
        reasons.append("--compile-only: everything is prepared, and no pod serves. Remove this to serve.")
    if parallelism.is_partial:
        ranks = f"{parallelism.ranks.start} to {parallelism.ranks.stop - 1}"
        reasons.append(f"Ranks {ranks} of {parallelism.degree} are prepared, and a part of the ranks cannot answer.")
    return Commented(True, " ".join(reasons)) if reasons else None
