"""A command's flags as NeuronConfig fields, and the field of `spec.compile` that carries each of them."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from neuronmodel_api.config import Server
from neuronmodel_worker.commands.migrate.given_flags import InferenceDemoCommand, LeftOut
from neuronmodel_worker.commands.migrate.inference_demo_flags import (
    EXTRA,
    LORA_DEFAULTS,
    PARTS,
    RENAMED,
    SAME_NAME,
    SAMPLING_FLAGS,
    TYPED,
    Flag,
)
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.yaml_document import Commented
from neuronmodel_worker.engines.nxdi.flag_checks import VLLM_FIELDS, check_flags
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph
from neuronmodel_worker.failures import FlagsRefused, LayoutRefused
from neuronmodel_worker.layouts import FAMILIES
from neuronmodel_worker.layouts.flag_support import flags_without_layout
from neuronmodel_worker.neuron_config.combinations import QUANTIZED
from neuronmodel_worker.neuron_config.fields import check_fields

# As the API server accepts them.
TOP_P = re.compile(r"0?\.[0-9]*[1-9][0-9]*|1(\.0+)?", re.ASCII)
TEMPERATURE = re.compile(r"[0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]*\.[0-9]*[1-9][0-9]*", re.ASCII)
MAX_DECIMAL: Final = 16
"""The maximum length in characters."""
GLOBAL_TOP_K: Final = 256
"""The default."""

# Without these flags the command builds no such configuration, and ignores the flags for its parts.
ASKED_FOR_BY: Final = {
    "lora_config": ("--enable-lora", "--enable-dynamic-multi-lora"),
    "kv_quant_config": ("--kv-cache-quant",),
}
WITH_PATHS: Final = ("quantized_checkpoints_path", "lora_config")

MODULES_FILE: Final = "--modules-to-not-convert-file"
MODULES: Final = "modules_to_not_convert"
FILL_IN_REASON: Final = (
    "it names a file of the command's host; fill in compile.extra, at FILL IN, what is in it: until then the API "
    "server refuses the NeuronModel"
)
MODULE_LIST_COMMENT: Final = (
    f"Put the list of {MODULES} here that {{file}} holds, which is not in the command, and call it {MODULES}: without "
    "it all modules would be quantized. The API server refuses this NeuronModel until then."
)


@dataclass(frozen=True)
class CompileFields:
    """The fields of one command. `ranks` are the ranks that the command is for."""

    command: InferenceDemoCommand
    degree: int
    ranks: range

    @cached_property
    def extras(self) -> Mapping[str, Any]:
        """What `spec.compile.extra` carries."""
        return {**dict(self._single()), **dict(self._groups())}

    @property
    def server(self) -> Server:
        return Server.VLLM if self.vllm_fields else Server.OPENAI

    @property
    def vllm_fields(self) -> list[str]:
        return [name for name in VLLM_FIELDS if name in self.extras]

    @property
    def needs_module_list(self) -> bool:
        """Whether the command quantizes all modules except those that a file names, whose content is unknown."""
        return MODULES_FILE in self.command and any(self.extras.get(name) for name in QUANTIZED)

    def _module_list_placeholder(self) -> Commented:
        return Commented(
            {"name": f"FILL IN {MODULES}", "value": []},
            MODULE_LIST_COMMENT.format(file=self.command.value(MODULES_FILE)),
        )

    @property
    def uses_fp8(self) -> bool:
        quantized = "--quantized" in self.command and self.command.value("--quantization-dtype") == "f8e4m3"
        return quantized or "--kv-cache-quant" in self.command

    def compile(self) -> dict[str, Any]:
        """Returns `spec.compile`. Raises NotUnderstood."""
        found = {flag.spec.removeprefix("compile."): value for flag, value in self._typed()}
        if "--on-device-sampling" in self.command:
            self._check_top_k()
            found["onDeviceSampling"] = {
                SAMPLING_FLAGS[name].spec.rpartition(".")[2]: self._sampled(name) for name in self._sampling_flags()
            }
        found["padTokenID"] = self.command.value(
            "--pad-token-id", Commented(0, "The command's own; without this field it is the checkpoint's.")
        )
        extra = [self._extra(name, value) for name, value in self.extras.items()]
        if self.needs_module_list:
            extra.append(self._module_list_placeholder())
        if extra:
            found["extra"] = extra
        return found

    def left_out(self) -> Iterator[LeftOut]:
        """Yields the flags that these fields do not carry as given."""
        if "--on-device-sampling" not in self.command:
            for name in self._sampling_flags():
                yield self._left_out_flag(name, "without --on-device-sampling the requests say how tokens are chosen")
        for group, asking in ASKED_FOR_BY.items():
            if not self._is_asked_for(group):
                for name in self._parts_given(group):
                    yield self._left_out_flag(name, f"without {' or '.join(asking)} the command pays no heed to it")
        for name, one in self.command.given.items():
            if name in SAME_NAME and isinstance(one.value, float) and math.isinf(one.value):
                yield self._left_out_flag(name, "JSON has no infinite numbers, and without the flag it is infinite")

    def without_layout(self) -> list[str]:
        """Returns what only NxD Inference's own code can shard."""
        model_type = self.command.value("--model-type")
        if model_type not in FAMILIES:
            return [f"models of type {model_type}"]
        return [name for name, _ in flags_without_layout(self._neuron_config, model_type)]

    def check(self) -> None:
        """Checks the fields as the worker will. Raises NotUnderstood, with the line of the flag that it is about."""
        fields = {**self._neuron_config, **({MODULES: ["lm_head"]} if self.needs_module_list else {})}
        model_type = self.command.value("--model-type")
        try:
            check_fields(fields, model_type)
            check_flags(fields, self.server, model_type)
            if self.server is Server.VLLM:
                check_graph(fields)
            if model_type in FAMILIES and not self.without_layout():
                FAMILIES[model_type].read(fields)
        except (FlagsRefused, LayoutRefused) as refused:
            about = (one for one in self.command.given.values() if re.search(rf"\b{one.flag.field}\b", str(refused)))
            line = min((one.line for one in about), default=self.command.invocation.line)
            raise NotUnderstood(line, str(refused).replace(" to spec.compile.extra", "")) from refused

    @cached_property
    def _neuron_config(self) -> dict[str, Any]:
        own = {"tp_degree": self.degree, "start_rank_id": self.ranks.start, "local_ranks_size": len(self.ranks)}
        world = {"world_size": self.command.value("--world-size")} if "--world-size" in self.command else {}
        return {
            **{flag.field: value for flag, value in self._typed()},
            **self._sampling(),
            **self.extras,
            **own,
            **world,
        }

    def _sampling(self) -> dict[str, Any]:
        if "--on-device-sampling" not in self.command:
            return {}
        given = self._sampling_flags()
        values = {SAMPLING_FLAGS[name].library.rpartition(".")[2]: self.command.value(name) for name in given}
        return {"on_device_sampling_config": values}

    def _typed(self) -> Iterator[tuple[Flag, Any]]:
        for name, flag in TYPED.items():
            if name in self.command:
                yield flag, self.command.value(name)

    def _extra(self, name: str, value: Any) -> Any:
        item = {"name": name, "value": value}
        if name in WITH_PATHS and "/" in repr(value):
            return Commented(
                item, "Paths in the worker's pods: worker.volumes and worker.volumeMounts bring what they name."
            )
        return item

    def _sampling_flags(self) -> list[str]:
        return [name for name in SAMPLING_FLAGS if name in self.command]

    def _check_top_k(self) -> None:
        most = self.command.value("--global-topk", GLOBAL_TOP_K)
        if (top_k := self.command.value("--top-k", 1)) != -1 and not 1 <= top_k <= most:
            raise NotUnderstood(
                self.command.line("--top-k"),
                f"--top-k is {top_k}, and --global-topk {most}. To be compiled into the model the first has to be -1, "
                "or from 1 to the second.",
            )

    def _sampled(self, name: str) -> Any:
        """Returns the value; a fraction as a decimal string."""
        value = self.command.value(name)
        if not isinstance(value, float):
            return value
        text = str(value) if "e" not in str(value) else format(Decimal(str(value)), "f")
        pattern, what = (TOP_P, "above 0 and at most 1") if name == "--top-p" else (TEMPERATURE, "above 0")
        if not pattern.fullmatch(text) or len(text) > MAX_DECIMAL:
            raise NotUnderstood(
                self.command.line(name), f"{name} is {value}. To be compiled into the model it has to be {what}."
            )
        return text

    def _single(self) -> Iterator[tuple[str, Any]]:
        for name, one in self.command.given.items():
            if (name in SAME_NAME or name in RENAMED) and not (isinstance(one.value, float) and math.isinf(one.value)):
                yield one.flag.field, _json(one.value)

    def _groups(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the configurations that the command builds from several flags."""
        if self._is_asked_for("lora_config"):
            yield "lora_config", {**LORA_DEFAULTS, **self._parts("lora_config"), **self._lora_from_other_flags()}
        if self._is_asked_for("kv_quant_config") and (parts := self._parts("kv_quant_config")):
            yield "kv_quant_config", parts  # without them kv_cache_quant alone has the same defaults
        if parts := self._parts("router_config"):
            yield "router_config", parts

    def _is_asked_for(self, group: str) -> bool:
        return any(name in self.command for name in ASKED_FOR_BY[group])

    def _parts_given(self, group: str) -> list[str]:
        return [name for name in self.command.given if name in PARTS and PARTS[name].spec == f"{EXTRA} {group}"]

    def _parts(self, group: str) -> dict[str, Any]:
        given = self._parts_given(group)
        return {PARTS[name].library.rpartition(".")[2]: _json(self.command.value(name)) for name in given}

    def _lora_from_other_flags(self) -> dict[str, Any]:
        return {
            "batch_size": self.command.value("--batch-size", 1),
            "dynamic_multi_lora": "--enable-dynamic-multi-lora" in self.command,
            "base_model_quantized": "--quantized" in self.command,
        }

    def _left_out_flag(self, name: str, reason: str) -> LeftOut:
        return LeftOut(self.command.line(name), name, reason)


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
