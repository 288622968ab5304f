"""What arguments of vLLM's follow from the flags, and further ones of a spec: those that clash are refused."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH

OF_THE_WORKER: Final = "nothing: the worker itself answers on the port and forwards to vLLM"
OF_THE_SOURCE: Final = "spec.model.source"
ONE_SERVER: Final = "nothing: a pod runs one vLLM on its own devices. Raise spec.serving.replicas"
OWN_ARGUMENTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("host", "port", "uds", "root-path", "headless", "api-server-count", "config"), OF_THE_WORKER),
    **dict.fromkeys(("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "enable-ssl-refresh"), OF_THE_WORKER),
    "api-key": "spec.serving.apiKeySecretRef",
    **dict.fromkeys(("model", "revision", "code-revision", "hf-token", "download-dir", "load-format"), OF_THE_SOURCE),
    "served-model-name": "spec.model.servedName",
    **dict.fromkeys(("tp", "tensor-parallel-size"), "spec.parallelism.tensorParallelDegree"),
    **dict.fromkeys(("pp", "pipeline-parallel-size", "dp", "data-parallel-size", "nnodes", "node-rank"), ONE_SERVER),
    "distributed-executor-backend": ONE_SERVER,
    "max-model-len": "spec.compile.sequenceLength",
    "max-num-seqs": "spec.compile.batchSize",
    "dtype": "spec.compile.torchDtype",
    "enable-prefix-caching": "is_prefix_caching in spec.compile.extra",
    "block-size": "pa_block_size in spec.compile.extra",
    "num-gpu-blocks-override": "pa_num_blocks in spec.compile.extra",
    "additional-config": "spec.compile.extra",
}
"""Arguments of vLLM that follow from the spec, or would part it from the worker, and what to set instead."""
ARGUMENT: Final = re.compile(r"(?P<dashes>--?)(?:no[-_])?(?P<name>[a-z][\w-]*)")
"""What vLLM takes for a flag: it reads _ as -, and what follows = or a dot is no part of the name."""


def check_extra_arguments(arguments: Sequence[str]) -> None:
    """Raises FlagsRefused for the first further argument of vLLM that clashes with what is set for it. An abbreviation
    of such a name counts as the name: some parsers take it."""
    if arguments and not arguments[0].startswith("-"):
        raise FlagsRefused(
            f"spec.serving.extraArgs begins with {arguments[0][:60]!r}, which is no flag. Write a flag before its "
            "value, each as an item of its own."
        )
    for argument in arguments:
        if (found := ARGUMENT.match(argument)) is None:
            continue  # a value
        name = found["name"].replace("_", "-")
        may_be_short = found["dashes"] == "--" and len(name) > 1
        for own, instead in OWN_ARGUMENTS.items():
            if own == name or (may_be_short and own.startswith(name)):
                raise FlagsRefused(
                    f"spec.serving.extraArgs has {found[0][:60]}, and --{own} is set already. Remove it; what to set "
                    f"instead is {instead}."
                )


def batch_size(flags: Mapping[str, Any]) -> int:
    return int(flags.get("batch_size", 1))


def sequence_length(flags: Mapping[str, Any]) -> int:
    return int(flags.get("seq_len", DEFAULT_SEQUENCE_LENGTH))
