"""Failures of the Neuron SDK and its devices, classified by the text of what the library raised or logged.

Status codes are the Neuron Runtime's (nrt_status.h). Everything else is `NeuronRuntimeFailed`, with the library's last
lines.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.engines.interface import DevicesInUse, NoEngine
from neuronmodel_worker.failures import BadInput, WorkerFailure

LAST_LINES = 6
LAST_CHARACTERS = 900


class ModelTypeWithoutApplication(BadInput):
    """The library has no application for the model type."""

    reason = Reason.MODEL_TYPE_WITHOUT_APPLICATION


class SdkPlaceholder(NoEngine):
    """An empty package of the public index is installed, which has the name of a package of the SDK."""

    reason = Reason.SDK_PLACEHOLDER


class NoNeuronDevice(WorkerFailure):
    reason = Reason.NO_NEURON_DEVICE


class LogicalCoreMismatch(BadInput):
    reason = Reason.LOGICAL_CORE_MISMATCH


class DeviceMemoryExhausted(BadInput):
    reason = Reason.DEVICE_MEMORY_EXHAUSTED


class NeuronVersionMismatch(BadInput):
    reason = Reason.NEURON_VERSION_MISMATCH


class HostMemoryExhausted(WorkerFailure):
    reason = Reason.HOST_MEMORY_EXHAUSTED


class DeviceFailed(WorkerFailure):
    reason = Reason.DEVICE_FAILED


class CompilerFailed(BadInput):
    reason = Reason.COMPILER_FAILED


class CompilerOutOfMemory(BadInput):
    reason = Reason.COMPILER_OUT_OF_MEMORY


class NeuronRuntimeFailed(WorkerFailure):
    reason = Reason.NEURON_RUNTIME_FAILED


@dataclass(frozen=True)
class Symptom:
    """A failure, the pattern of texts that show it, and what to do."""

    failure: type[WorkerFailure]
    pattern: re.Pattern[str]
    sentence: str


def _pattern(names: str, codes: Sequence[int] = (), *others: str) -> re.Pattern[str]:
    """A pattern of status names as words, and of their numbers after the word status."""
    numbers = "|".join(map(str, codes))
    parts = [rf"\b(?:{names})\b"] if names else []
    parts += [rf"\bstatus(?:[ _]?code)?\s*[=:]?\s*(?:{numbers})\b"] if numbers else []
    return re.compile("|".join((*parts, *others)), re.IGNORECASE)


# No public page says which words the runtime uses for a mismatch.
LOGICAL_CORE = r"logical[ _-]?n(?:euron)?[ _-]?c(?:ore)?s?|virtual[ _-]?core(?:[ _-]?size)?|\bLNC\b|\bvnc\b"
DISAGREES = "mismatch|does not match|do not match|differ|incompatible|not supported|unsupported"

# In the order of the search: the runtime logs a cause and then fails with something more general.
SYMPTOMS = (
    Symptom(
        DevicesInUse,
        _pattern(
            "NRT_EXEC_NC_BUSY|NRT_LOAD_NOT_ENOUGH_NC", (9, 1005), r"Neuron ?Core\(s\) not available", "Not enough NC:"
        ),
        "Another process holds the Neuron cores, often the pod before this one. They are waited for.",
    ),
    Symptom(
        NoNeuronDevice,
        _pattern("", (), "No neuron device available", "cannot determine the number of available NeuronCores"),
        "There is no Neuron device. Run the pod on a node with Neuron devices, ask for aws.amazon.com/neuron, and "
        "check that the node's driver is loaded.",
    ),
    Symptom(
        LogicalCoreMismatch,
        _pattern(
            "",
            (),
            rf"(?:{LOGICAL_CORE})[^\n]{{0,160}}(?:{DISAGREES})",
            rf"(?:{DISAGREES})[^\n]{{0,160}}(?:{LOGICAL_CORE})",
        ),
        "The model was compiled for logical cores of another size than the runtime was told to make. Let "
        "logicalNeuronCoreConfig, NEURON_RT_VIRTUAL_CORE_SIZE and NEURON_LOGICAL_NC_CONFIG say the same.",
    ),
    Symptom(
        NeuronVersionMismatch,
        _pattern("NRT_UNSUPPORTED_NEFF_VERSION", (10,), "NEFF version mismatch"),
        "The compiled model is of another version than the runtime or the driver of this node. Use an image of the "
        "release that the node's driver belongs to, or update the driver.",
    ),
    Symptom(
        HostMemoryExhausted,
        _pattern("NRT_FAIL_HOST_MEM_ALLOC", (11,)),
        "The host's memory was not enough while the model was loaded. Ask for more memory, or for huge pages as the "
        "runtime needs them.",
    ),
    Symptom(
        DeviceFailed,
        _pattern(
            "NRT_HW_ERROR|NRT_EXEC_UNIT_UNRECOVERABLE|NRT_EXEC_HW_ERR_[A-Z_]+|NRT_EXEC_SW_NQ_OVERFLOW|"
            "NRT_NETWORK_PROXY_FAILURE|NRT_TIMEOUT",
            (5, 6, 101, *range(1200, 1207)),
        ),
        "A Neuron device failed or did not answer. Look at the node's kernel log, and replace the node when it happens "
        "again.",
    ),
    Symptom(
        DeviceMemoryExhausted,
        _pattern(
            "NRT_RESOURCE",
            (4,),
            r"Failed to alloc(?:ate)?[^\n]{0,80}(?:HBM|device|\bND ?\d)",
            "out of (?:HBM|device) memory",
        ),
        "The memory of a Neuron core is exhausted. Use a higher tensorParallelDegree, a shorter sequence or a smaller "
        "batch, or logical cores of two physical ones.",
    ),
)  # fmt: skip

OUT_OF_MEMORY = re.compile(
    r"\bMemoryError\b|\bstd::bad_alloc\b|\bexit(?:ed)?[ _]?(?:code|status)?[ =:]*(?:137\b|-9\b)|"
    r"\bfailed with -9\b|died with <Signals\.SIGKILL|\bSIGKILL\b|killed by signal 9\b|"
    r"[Cc]annot allocate memory|[Oo]ut of memory|forcibly killed",
)
# The parts of a Python traceback that say where and not what, which would leave no space for the error itself.
FRAMES = re.compile(
    r"^(?:Traceback \(most recent call last\)|During handling of the above exception|The above exception was)[^\n]*\n|"
    r'^ +File "[^\n]*", line \d+[^\n]*\n(?: {4,}[^\n]*\n)*',
    re.MULTILINE,
)
EXIT_70 = re.compile(
    r"(?:exit[ _-]?(?:code|status)|exited with|failed with|return[ _-]?code)[ :=a-z]{0,20}\b70(?![\d.]*\d)",
    re.IGNORECASE,
)


def classify(text: str) -> WorkerFailure:
    """The failure for a text, which is what the library logged and then raised."""
    for symptom in SYMPTOMS:
        if symptom.pattern.search(text):
            return symptom.failure(f"{symptom.sentence} The library's last lines: {last_lines(text)}")
    return NeuronRuntimeFailed(
        "The Neuron runtime or NxD Inference failed for a reason that is not known here. Its last lines: "
        f"{last_lines(text)}"
    )


ERROR_WORDS = re.compile(
    r"error|exception|fail|fatal|abort|kill|unsupported|not available|\bNRT|status ?=|terminat|\[[EF]\d+\]", re.I
)
STACK_LINE = re.compile(r"^(?:File \"|/\S+\(\d+\): |~+ ?<?|frame #\d|Traceback )")


def last_lines(text: str) -> str:
    """The last lines that say what went wrong, in one line; or the last ones of all where none does. Libraries append
    the stack to a message."""
    lines = [line.strip() for line in FRAMES.sub("", text).splitlines() if line.strip()]
    telling = [line for line in lines if ERROR_WORDS.search(line) and not STACK_LINE.match(line)]
    text = " | ".join((telling or lines)[-LAST_LINES:])
    return text if len(text) <= LAST_CHARACTERS else f"…{text[-LAST_CHARACTERS:]}"
