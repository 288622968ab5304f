"""Why a checkpoint lacks a tensor that its model needs: how its tensors are named instead."""

import re
from collections.abc import Collection, Iterable
from typing import Final

from neuronmodel_worker.io.untrusted_input import shown

SHOWN_NAMES: Final = 4

WRAPPERS: Final[tuple[tuple[str, str], ...]] = (
    ("_orig_mod", "torch.compile"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("_forward_module", "DeepSpeed or Lightning"),
    ("module", "DistributedDataParallel or DeepSpeed"),
)
"""Parts of names that a wrapper around the model adds, and what adds them."""
WRAPPER_PARTS: Final = frozenset(part for part, _ in WRAPPERS)

SAVED_WRAPPED: Final = (
    "Save the model that is wrapped and not the wrapper (with save_pretrained), or take these parts out of the names."
)

PREFIXES: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = tuple(
    (re.compile(pattern), what, remedy)
    for pattern, what, remedy in (
        (
            r"(^|\.)base_model\.",
            "a model that PEFT wraps",
            "Merge the adapter into the model (merge_and_unload) and save that with save_pretrained.",
        ),
        (
            r"language_model|text_model|thinker|(^|\.)llm\.|text_decoder",
            "the language model within a multimodal one",
            "Use a checkpoint of the language model alone, with its own config.json, or save it as one.",
        ),
        (
            r"^(state_dict|model_state_dict|weights|params|student|policy|actor|backbone|ema)\.",
            "the state of a training",
            "Load it there and save the model by itself with save_pretrained.",
        ),
        (
            r"^transformer\.",
            "another architecture, or of another program",
            "Save the model with transformers (save_pretrained), or use its original repository.",
        ),
    )
)
OTHER_NAMES: Final = (
    "Save the model with transformers (save_pretrained), which gives its tensors the names that it reads."
)

SCHEMES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"(^|\.)h\.\d+\.(attn|ln_1)\.", "as GPT-2 and its relatives have them"),
        (r"(^|\.)layers\.\d+\.attention\.w[qkvo]\.|^tok_embeddings\.", "as Meta's and Mistral's own formats have them"),
        (r"gpt_neox\.", "as GPT-NeoX has them"),
        (r"\.self_attn\.qkv_proj\.|\.mlp\.gate_up_proj\.weight", "with projections fused into one, as Phi-3 has them"),
        (r"self_attention\.(linear_qkv|query_key_value)", "as Megatron, NeMo, Falcon, BLOOM or ChatGLM have them"),
        (r"(^|\.)mixer\.", "as Mamba has them"),
        (r"transformer\.blocks\.", "as MPT and DBRX have them"),
        (r"^blk\.\d+\.|^token_embd\.", "as llama.cpp has them"),
        (r"(encoder|decoder)\.(block|layers?)\.\d+\.", "as encoders and decoders of two parts have them"),
    )
)

OURS: Final = re.compile(r"^(model\.)?layers\.\d+\.(self_attn\.[qkvo]_proj|mlp|block_sparse_moe)\.")

HEAD: Final = "lm_head.weight"
EMBEDDINGS: Final = "embed_tokens.weight"


def explain_other_names(name: str, names: Collection[str]) -> str | None:
    """How the tensors `names` are named where `name` is missing, and what to do, as sentences; None where they have the
    right names."""
    bare = name.removeprefix("model.")
    for each in names:
        parts = each.split(".")
        if WRAPPER_PARTS & set(parts) and _unwrapped(parts) == bare:
            wrappers = " and ".join(wrapper for part, wrapper in WRAPPERS if part in parts)
            return f"It has {shown(each)}: it was saved from within {wrappers}. {SAVED_WRAPPED}"
    prefixed = [each for each in names if each.endswith(f".{bare}")]
    patterns = _fused_names(bare)
    if fused := next((each for each in names if any(pattern.fullmatch(each) for pattern in patterns)), None):
        return (
            f"It has {shown(fused)}, which holds several of the model's tensors as one. Save the model with them "
            "apart, as transformers does (save_pretrained)."
        )
    if prefixed:
        each = min(prefixed, key=lambda name: (not _is_of_language_model(name), len(name)))
        prefix = each.removesuffix(bare)
        what, remedy = _prefixed(prefix)
        return f"It has {shown(each)}, and the prefix {shown(prefix)} is that of {what}. {remedy}"
    if not names:
        return "It holds no tensors at all. Download it again."
    return None if any(OURS.match(each) for each in names) else _explain_scheme(names)


FUSED: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(.*self_attn)\.[qkv]_proj\.(weight|bias)"), r"\1.(qkv_proj|query_key_value|W_pack|Wqkv).\2"),
    (re.compile(r"(.*mlp)\.(gate|up)_proj\.(weight|bias)"), r"\1.gate_up_proj.\3"),
    (
        re.compile(r"(.*layers\.\d+)\.(block_sparse_moe|mlp)\.(gate|experts\.\d+\.(\w+_proj|w[123]))\.weight"),
        r"\1.(block_sparse_moe|mlp).experts.(gate_up|down)_proj(.weight)?",
    ),
)
"""A pattern of missing tensors, and one of the fused tensors that contain them."""


def _fused_names(bare: str) -> list[re.Pattern[str]]:
    """Patterns of the fused tensors that contain `bare` and others."""
    return [
        re.compile(rf"(.+\.)?{match.expand(fused)}") for missing, fused in FUSED if (match := missing.fullmatch(bare))
    ]


def _unwrapped(parts: Iterable[str]) -> str:
    return ".".join(part for part in parts if part not in WRAPPER_PARTS).removeprefix("model.")


def _is_of_language_model(name: str) -> bool:
    return not re.search(r"vision|visual|audio|image", name)


def _prefixed(prefix: str) -> tuple[str, str]:
    for pattern, what, remedy in PREFIXES:
        if pattern.search(prefix):
            return what, remedy
    return "a model within another", OTHER_NAMES


def _explain_scheme(names: Collection[str]) -> str:
    first = sorted(names)[:SHOWN_NAMES]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    scheme = next((what for pattern, what in SCHEMES if any(map(pattern.search, names))), None)
    return (
        f"Its tensors are named otherwise{f', {scheme}' if scheme else ''}: {', '.join(map(_short, first))}{more}. "
        "Check that config.json belongs to these files, or save the model with transformers (save_pretrained)."
    )


def _short(name: str) -> str:
    text = shown(name)
    return text if len(text) <= 100 else f"{text[:100]}…"


def explain_tied_names(name: str, names: Collection[str], tied: object) -> str | None:
    """Why the head or the embeddings are missing: a checkpoint may leave out one of them where they are tied. `tied` is
    tie_word_embeddings of config.json."""
    bare = name.removeprefix("model.")
    has = {each.removeprefix("model.") for each in names}
    if bare == HEAD and EMBEDDINGS in has:
        setting = "says tie_word_embeddings: false" if tied is False else "does not say tie_word_embeddings: true"
        return (
            f"Its config.json {setting}, so the model has a head of its own beside {EMBEDDINGS}. If it was saved from "
            "a model whose embeddings are its head, set tie_word_embeddings to true in config.json; else download the "
            "file that holds lm_head.weight."
        )
    if bare == EMBEDDINGS and HEAD in has:
        return (
            "It has lm_head.weight and no embeddings: one of two tied tensors was saved, under the other's name. Save "
            "the model again with transformers (save_pretrained), or download the file that holds the embeddings."
        )
    return None
