"""How rank tensors become vLLM's parameters.

A rank's slices of the layers are already vLLM's: both split heads and the MLP's rows into equal parts in their order
(`engines/cpu_vllm` refuses what is not). vLLM stacks query, key and value, and gate and up, into one parameter each. Of
the vocabulary it gives each rank equal rows, padded to a multiple of 64; where shards are split otherwise, the ranks
gather the whole matrix from each other.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.layouts import Layout

if TYPE_CHECKING:
    import torch

EMBEDDINGS, HEAD, NORM = "embed_tokens.weight", "lm_head.weight", "norm.weight"
LAYER: Final = re.compile(r"model\.(?P<layer>layers\.\d+\.)(?P<rest>.+)\.(?P<kind>weight|bias)")
STACKED: Final[Mapping[str, Sequence[str]]] = {
    "self_attn.qkv_proj": tuple(f"self_attn.qkv_proj.{which}_proj" for which in "qkv"),
    "self_attn.o_proj": ("self_attn.o_proj.o_proj",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
    "input_layernorm": ("input_layernorm",),
    "post_attention_layernorm": ("post_attention_layernorm",),
}
"""The rank tensors that follow each other in a parameter of vLLM's, both without the layer."""
FUSED: Final = "self_attn.qkv_proj.Wqkv"
RANK_NUMBER: Final = "rank_util.rank"


class ParametersDiffer(BadInput):
    """vLLM's model has other parameters than the shards have tensors."""

    reason = Reason.SERVER_NOT_HOOKED

    def __init__(self, what: str) -> None:
        super().__init__(
            f"vLLM's model is not the one that was prepared: {what}. Remove arguments of spec.serving.extraArgs that "
            "change the model, such as --quantization or --hf-overrides, or use another version of vLLM."
        )


@dataclass(frozen=True)
class Group:
    """vLLM's tensor parallel group, as one of its processes sees it. `gather` joins all ranks' parts of a tensor along
    a dimension."""

    rank: int
    degree: int
    gather: Callable[["torch.Tensor", int], "torch.Tensor"]


@dataclass
class ParameterFiller:
    """Fills one rank's parameters from its tensors. All ranks of a group have to do so at the same time."""

    layout: Layout
    tensors: Mapping[str, "torch.Tensor"]
    group: Group
    _used: set[str] = field(default_factory=set)

    def fill(self, parameters: Mapping[str, "torch.Tensor"], progress: Callable[[int, int], None]) -> None:
        """Raises ParametersDiffer unless every parameter is filled, and every tensor is used."""
        is_tied = HEAD not in parameters
        for done, (name, parameter) in enumerate(parameters.items()):
            progress(done, len(parameters))
            if not parameter.is_floating_point() or parameter.element_size() == 1:
                raise ParametersDiffer(f"its parameter {name} is of type {parameter.dtype}")
            if name == f"model.{EMBEDDINGS}":
                # Rows are what vLLM wants: those of the head are the same matrix's where both are one.
                self._fill_vocabulary(parameter, HEAD if is_tied else EMBEDDINGS)
            elif name == HEAD:
                self._fill_vocabulary(parameter, HEAD)
            else:
                self._stack(name, parameter, list(self._parts(name)))
        self._check_all_used(is_tied)

    def _check_all_used(self, is_tied: bool) -> None:
        unused = {name for name in self.tensors if not name.endswith(RANK_NUMBER)} - self._used
        if is_tied:
            unused.discard(EMBEDDINGS)
        if unused:
            raise ParametersDiffer(f"it has no place for {min(unused)}")

    def _tensor(self, name: str, parameter: str) -> "torch.Tensor":
        if name not in self.tensors:
            raise ParametersDiffer(f"there is no {name} for its parameter {parameter}")
        self._used.add(name)
        return self.tensors[name]

    # Layers.

    def _parts(self, name: str) -> Iterator["torch.Tensor"]:
        if name == f"model.{NORM}":
            yield self._tensor(NORM, name)
            return
        found = LAYER.fullmatch(name)
        stacked = STACKED.get(found["rest"]) if found else None
        if found is None or stacked is None:
            raise ParametersDiffer(f"its parameter {name} is not known")
        if self.layout.flags.fused_qkv and found["rest"] == "self_attn.qkv_proj":
            stacked = (FUSED,)
        for part in stacked:
            tensor = self._tensor(f"{found['layer']}{part}.{found['kind']}", name)
            yield tensor.T if found["kind"] == "weight" and self._is_transposed(part) else tensor

    def _is_transposed(self, part: str) -> bool:
        flags = self.layout.flags
        if part.startswith("mlp."):
            return flags.transposed_mlp
        return flags.transposed_fused_qkv if part == FUSED else flags.transposed_out and part.endswith("o_proj")

    def _stack(self, name: str, parameter: "torch.Tensor", parts: Sequence["torch.Tensor"]) -> None:
        found = [sum(part.shape[0] for part in parts), *parts[0].shape[1:]]
        if found != list(parameter.shape):
            raise ParametersDiffer(f"its parameter {name} is {list(parameter.shape)}, and {found} was prepared")
        at = 0
        for part in parts:
            parameter.data[at : at + part.shape[0]].copy_(part)
            at += part.shape[0]

    # The vocabulary.

    def _fill_vocabulary(self, parameter: "torch.Tensor", name: str) -> None:
        """Copies the rank's rows. Rows beyond the vocabulary are zero."""
        rows = parameter.shape[0]
        start = self.group.rank * rows
        matrix = self._rows_from(start, rows, self._tensor(name, name), is_rows=self._is_rows(name))
        if matrix.shape[0] > rows or list(matrix.shape[1:]) != list(parameter.shape[1:]):
            raise ParametersDiffer(f"{name} is {list(parameter.shape)}, and {list(matrix.shape)} was prepared")
        parameter.data[: matrix.shape[0]].copy_(matrix)
        parameter.data[matrix.shape[0] :].zero_()

    def _is_rows(self, name: str) -> bool:
        return name == HEAD or self.layout.flags.vocab_parallel

    def _rows_from(self, start: int, rows: int, part: "torch.Tensor", *, is_rows: bool) -> "torch.Tensor":
        vocabulary, hidden = self._size("vocab_size"), self._size("hidden_size")
        if is_rows and rows * self.group.degree == vocabulary:
            return part
        whole = part if self.group.degree == 1 else self.group.gather(part.contiguous(), 0 if is_rows else 1)
        return whole[:vocabulary, :hidden][start : start + rows]

    def _size(self, name: str) -> int:
        size = self.layout.sizes[name]
        assert isinstance(size, int)
        return size
