"""What a command's environment means for a NeuronModel: cores, variables for the worker, and what is left out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from neuronmodel_api.names import RESERVED_ENV_PREFIXES
from neuronmodel_worker.commands.migrate.given_flags import LeftOut
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_script import Invocation, ShellText

CORES_A_LOGICAL_ONE: Final = ("NEURON_RT_VIRTUAL_CORE_SIZE", "NEURON_LOGICAL_NC_CONFIG")
NUM_CORES: Final = "NEURON_RT_NUM_CORES"
DERIVED: Final = "the operator derives it from parallelism and the instance type"
FOLDERS: Final = "the worker has its folders on the scratch volume"
OF_THE_HOST: Final = "it is about the host that the command ran on"
OF_THE_TEXT: Final = "the command's arguments are made of it, and the worker does not read it"
OF_SECRETS: Final = (
    "a NeuronModel is no place for a secret; name it in worker.env with valueFrom.secretKeyRef, if the worker needs it"
)
REASONS: Final = {
    **dict.fromkeys(
        ("NEURON_RT_VISIBLE_CORES", "NEURON_PLATFORM_TARGET_OVERRIDE", "NEURON_COMPILED_ARTIFACTS"), DERIVED
    ),
    **dict.fromkeys(
        (
            "HOME", "TMPDIR", "TMP", "TEMP", "BASE_COMPILE_WORK_DIR", "NEURON_COMPILE_CACHE_URL", "NEURON_DUMP_PATH",
            "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "XDG_CACHE_HOME",
        ),
        FOLDERS,
    ),
    **dict.fromkeys(("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV"), OF_THE_HOST),
    "HF_HUB_OFFLINE": "a worker downloads nothing anyway",
    "NXD_LAYOUT_TRANSFORMATION_OPTIONS": (
        "it rewrites shards in the compiler's own layout, and sealed ones are in NxD Inference's; the worker refuses "
        "to start with it"
    ),
}  # fmt: skip
SECRET_NAMES = re.compile(
    r"SECRET|PASSW|PASSPHRASE|CREDENTIAL|(?<!NUMERIC_CC_)TOKEN(?!IZERS_|S)|(PASS|_PWD|AUTH|KEY|KEY_ID)$",
    re.ASCII | re.IGNORECASE,
)
TOKEN_OF_HUGGING_FACE = re.compile(r"hf_[A-Za-z0-9]{16,}", re.ASCII)
MAX_VARIABLES: Final = 120
"""The API server accepts 128; flags add some."""
MAX_NAME: Final = 253
OF_NEURON = re.compile(r"(NEURON|NRT|XLA|NXD|NCCL|FI)_", re.ASCII)


@dataclass(frozen=True)
class Environment:
    """`worker` is what `worker.env` carries, in Kubernetes' syntax."""

    worker: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def read_environment(invocation: Invocation) -> Environment:
    """Raises NotUnderstood."""
    worker, left_out = dict[str, str](), list[LeftOut]()
    for name, variable in invocation.environment.items():
        if name in (*CORES_A_LOGICAL_ONE, NUM_CORES):
            continue
        reason = _reason(name, variable.shown)
        if not reason and name in invocation.used and not OF_NEURON.match(name):
            reason = OF_THE_TEXT
        if reason:
            left_out.append(LeftOut(variable.line, name, reason))
        else:
            if len(name) > MAX_NAME or len(worker) == MAX_VARIABLES:
                raise NotUnderstood(
                    variable.line,
                    f"A NeuronModel carries {MAX_VARIABLES} variables, with names of at most {MAX_NAME} characters. "
                    "Leave out what the command does not need.",
                )
            worker[name] = variable.text.replace("$", "$$")  # Kubernetes takes $(NAME) for a reference
    for name, variable in invocation.unexported.items():
        if OF_NEURON.match(name):
            left_out.append(LeftOut(variable.line, name, "it is not exported, so the command does not see it"))
    return Environment(worker, tuple(left_out))


def _reason(name: str, value: str) -> str:
    if SECRET_NAMES.search(name) or TOKEN_OF_HUGGING_FACE.search(value):
        return OF_SECRETS
    if name.startswith(RESERVED_ENV_PREFIXES):
        return "such names are the operator's own"
    return REASONS.get(name, "")


def integer(name: str, variable: ShellText) -> int:
    """Returns the variable's value. Raises NotUnderstood."""
    if not re.fullmatch(r"\d{1,9}", variable.text, re.ASCII):
        raise NotUnderstood(variable.line, f"{name} is {variable.text!r} and has to be an integer.")
    return int(variable.text)
