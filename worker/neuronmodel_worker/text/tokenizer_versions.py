"""Differences between how transformers 5 and transformers 4.57, which this worker uses, read a checkpoint's tokenizer.

Version 5 is not needed: its tokenizer is built with `tokenizers` by the rules of its source (5.24), and both are
compared on a few texts. The rules:

- mistral and mixtral checkpoints use tokenizer.json unchanged, and so do those without a class or with a plain one;
- qwen2 checkpoints are built as Qwen2Tokenizer whatever class they name, qwen3 and qwen3_moe ones if they name none;
- a class that builds takes vocabulary, merges and post-processor from tokenizer.json, added tokens from
  tokenizer_config.json, and has its own normalizer, pre-tokenizer and decoder;
- LlamaTokenizer builds unless tokenizer.json is byte-level;
- add_bos_token and add_eos_token have no effect if there is a tokenizer.json.

Not compared: 4.57 cleans up decoded text where clean_up_tokenization_spaces is true, 5 does so for no BPE.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from neuronmodel_worker.text.tokenizer_files import TokenizerFiles

FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
UNCHANGED = "TokenizersBackend"
PLAIN_CLASSES = ("", UNCHANGED, "PreTrainedTokenizer")
TEXTS = (
    "Hello, world!",
    "The rain in 7890 places.",
    " Then  two\n\n  lines",
    "It's  7  o'clock",
    "x = [12]\n    y = 345",
    "café, cafe\u0301, 東京, 🙂",
)
ROLES = {"bos_token": "beginning", "eos_token": "end"}
PARTS = ("normalizer", "pre_tokenizer", "decoder")
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def differences(tokenizer: Any, files: TokenizerFiles) -> list[str]:
    """A sentence for each difference, with both results; `tokenizer` is that of transformers 4.57.

    Empty where it is not certain what version 5 does: without a tokenizer.json, with code in the checkpoint, for
    classes and models without a rule here.
    """
    name = _class_in_five(files)
    if not files.tokenizer or not getattr(tokenizer, "is_fast", False) or name is None:
        return []
    special = _special_tokens(name, files)
    five = _backend(name, tokenizer, files, special)
    five.encode_special_tokens = tokenizer.split_special_tokens
    named = [_token_of_role(tokenizer, special, role) for role in ROLES]
    compared = [
        compare(tokenizer, five, name, files)
        for compare in (_compare_added_tokens, _compare_affixes, _compare_tokens, _compare_decoded)
    ]
    return [sentence for sentence in (*named, *compared) if sentence is not None]


def _class_in_five(files: TokenizerFiles) -> str | None:
    """The class that AutoTokenizer of transformers 5 chooses by tokenizer_config.json and config.json."""
    family = files.config.get("model_type")
    if family not in FAMILIES or "auto_map" in files.tokenizer_config:
        return None
    declared = files.tokenizer_config.get("tokenizer_class") or files.config.get("tokenizer_class") or ""
    declared = str(declared).removesuffix("Fast")
    if family in ("mistral", "mixtral"):
        name = UNCHANGED
    elif family == "qwen2" or (family != "llama" and not declared):
        name = "Qwen2Tokenizer"
    elif declared in PLAIN_CLASSES or (declared == "LlamaTokenizer" and _is_byte_level(files.tokenizer)):
        name = UNCHANGED
    else:
        name = declared
    builds = name in BUILT and files.tokenizer.get("model", {}).get("type") == "BPE"
    return name if builds or name == UNCHANGED else None


def _is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps({name: part for name, part in tokenizer.items() if name != "model"})


# The parts that the classes of transformers 5 build.


def _llama(settings: Mapping[str, Any]) -> dict[str, Any]:
    prefixed = settings.get("add_prefix_space") is not False
    scheme = ("always" if settings.get("legacy", False) else "first") if prefixed else "never"
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {"unk_token": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False},
    }


def _qwen2(settings: Mapping[str, Any]) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    sequence = {"type": "Sequence", "pretokenizers": [split, _byte_level(settings, use_regex=False)]}
    return {**_gpt2(settings), "normalizer": {"type": "NFC"}, "pre_tokenizer": sequence}


def _gpt2(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "normalizer": None,
        "pre_tokenizer": _byte_level(settings, use_regex=True),
        "decoder": _byte_level({}, use_regex=True),
        "model": {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
    }


def _byte_level(settings: Mapping[str, Any], *, use_regex: bool) -> dict[str, Any]:
    prefixed = bool(settings.get("add_prefix_space"))
    return {"type": "ByteLevel", "add_prefix_space": prefixed, "trim_offsets": True, "use_regex": use_regex}


BUILT = {"LlamaTokenizer": _llama, "Qwen2Tokenizer": _qwen2, "GPT2Tokenizer": _gpt2}
DEFAULTS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    UNCHANGED: {},
}


def _special_tokens(name: str, files: TokenizerFiles) -> dict[str, str]:
    """The special tokens by their roles; special_tokens_map.json is used where tokenizer_config.json has no
    added_tokens_decoder."""
    settings = dict(files.tokenizer_config)
    if "added_tokens_decoder" not in settings:
        settings.update(files.special_tokens_map)
    roles = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    named = {role: settings[role] if role in settings else DEFAULTS[name].get(role) for role in roles}
    return {role: _content(token) for role, token in named.items() if token is not None}


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _backend(name: str, tokenizer: Any, files: TokenizerFiles, special: Mapping[str, str]) -> Any:
    """The tokenizer of `tokenizers` that transformers 5 builds; a large vocabulary is shared and not copied."""
    built = BUILT[name](files.tokenizer_config) if name in BUILT else {}
    model = tokenizer.backend_tokenizer.model
    if name in BUILT and _differs(files.tokenizer["model"], built["model"]):
        changed = {**files.tokenizer["model"], **built["model"]}
        model = _from_json({**files.tokenizer, "model": changed, "added_tokens": []}).model
    bare = {"type": "BPE", "vocab": {}, "merges": []}
    template = {**files.tokenizer, **built, "model": bare, "added_tokens": [], "truncation": None, "padding": None}
    parts = _from_json(template)
    five = tokenizers.Tokenizer(model)
    for part in (*PARTS, "post_processor"):
        if getattr(parts, part) is not None:
            setattr(five, part, getattr(parts, part))
    for token in _tokens_to_add(name, files):
        five.add_tokens([token])
    five.add_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special.values()])
    return five


def _from_json(content: Mapping[str, Any]) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _differs(model: Mapping[str, Any], built: Mapping[str, Any]) -> bool:
    """Whether the model of tokenizer.json treats some text differently. With a byte fallback, no byte is unknown."""
    flags = ["byte_fallback", "ignore_merges"]
    flags += [] if built["byte_fallback"] and model.get("byte_fallback") else ["unk_token"]
    return any((model.get(flag) or None) != (built[flag] or None) for flag in flags)


def _tokens_to_add(name: str, files: TokenizerFiles) -> Iterator[Any]:
    """The added tokens in the order of their numbers: those of tokenizer.json unless the class builds, then those of
    tokenizer_config.json."""
    inside = [(int(token["id"]), token) for token in files.tokenizer.get("added_tokens", [])]
    declared = files.tokenizer_config.get("added_tokens_decoder")
    configured = inside if declared is None else [(int(number), token) for number, token in declared.items()]
    for tokens in ([], configured) if name in BUILT else (inside, configured):
        for _, token in sorted(tokens, key=lambda item: item[0]):
            fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
            yield tokenizers.AddedToken(**{field: token[field] for field in fields if field in token})


# The comparisons.


def _token_of_role(tokenizer: Any, special: Mapping[str, str], role: str) -> str | None:
    ours, theirs = getattr(tokenizer, role), special.get(role)
    if ours == theirs:
        return None
    return (
        f"transformers 4.57 takes {_quoted(ours)} for the {ROLES[role]} of a text, and 5 {_quoted(theirs)}: "
        f"no file names the {role}, and {_class(tokenizer)}'s default is not 5's."
    )


def _compare_added_tokens(tokenizer: Any, five: Any, name: str, files: TokenizerFiles) -> str | None:
    for token in files.tokenizer.get("added_tokens", []):
        ours, theirs = (_ids(reader, token["content"]) for reader in (tokenizer, five))
        if ours != theirs:
            return (
                f"transformers 4.57 reads {token['content']!r} as {ours}, and 5 as {theirs}: 5's {name} takes added "
                "tokens from added_tokens_decoder of tokenizer_config.json and not from tokenizer.json."
            )
    return None


def _compare_affixes(tokenizer: Any, five: Any, name: str, files: TokenizerFiles) -> str | None:
    """Compare the special tokens before and after a text, on a text that is otherwise tokenized in the same way, if
    there is one."""
    text = next((text for text in TEXTS if _ids(tokenizer, text) == _ids(five, text)), "")
    ours, theirs = (_ids(reader, text, special=True) for reader in (tokenizer, five))
    if ours == theirs:
        return None
    begins, ends = (json.dumps(getattr(tokenizer, f"add_{side}_token", False)) for side in ("bos", "eos"))
    return (
        f"transformers 4.57 reads {text!r} as {ours}, and 5 as {theirs}: 4.57's {_class(tokenizer)} goes by "
        f"add_bos_token ({begins}) and add_eos_token ({ends}), 5 by the post_processor of tokenizer.json."
    )


def _compare_tokens(tokenizer: Any, five: Any, name: str, files: TokenizerFiles) -> str | None:
    for text in _texts(tokenizer, files):
        ours, theirs = (_ids(reader, text) for reader in (tokenizer, five))
        if ours != theirs:
            return (
                f"transformers 4.57 reads {text!r} as {ours} (with nothing around it), and 5 as {theirs}: "
                f"{_reason(tokenizer, name, files, 'normalizer and pre_tokenizer')}."
            )
    return None


def _compare_decoded(tokenizer: Any, five: Any, name: str, files: TokenizerFiles) -> str | None:
    for text in TEXTS:
        tokens = _ids(tokenizer, text)
        ours, theirs = (reader.decode(tokens) for reader in (tokenizer.backend_tokenizer, five))
        if ours != theirs:
            return (
                f"transformers 4.57 writes {tokens} as {ours!r}, and 5 as {theirs!r}: "
                f"{_reason(tokenizer, name, files, 'decoder')}."
            )
    return None


def _texts(tokenizer: Any, files: TokenizerFiles) -> list[str]:
    """Texts of all kinds, and texts after a token that a chat template puts before them."""
    inside = [token["content"] for token in files.tokenizer.get("added_tokens", [])]
    return [*TEXTS, *(f"{token}Hello" for token in (tokenizer.bos_token, tokenizer.eos_token) if token in inside)]


def _reason(tokenizer: Any, name: str, files: TokenizerFiles, parts: str) -> str:
    settings = files.tokenizer_config
    prefixed = "Llama" in _class(tokenizer) and settings.get("add_prefix_space") is not None
    if prefixed or settings.get("tokenizer_file", "") is None:
        return f"4.57's {_class(tokenizer)} converts tokenizer.model anew, 5 reads tokenizer.json"
    if name in BUILT:
        return f"5's {name} has its own {parts} in place of tokenizer.json's"
    return f"4.57's {_class(tokenizer)} changes what tokenizer.json says, 5 takes it as it is"


def _ids(reader: Any, text: str, *, special: bool = False) -> list[int]:
    """The tokens of a text, by transformers' tokenizer, without the truncation and padding of tokenizer.json, or by one
    of `tokenizers`."""
    encoded = reader.encode(text, add_special_tokens=special)
    return list(getattr(encoded, "ids", encoded))


def _class(tokenizer: Any) -> str:
    return type(tokenizer).__name__


def _quoted(token: Any) -> str:
    return "none" if token is None else repr(str(token))
