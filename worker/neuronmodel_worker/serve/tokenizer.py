"""A checkpoint's tokenizer and chat template, as transformers reads them and without importing it.

To import transformers' fast tokenizer costs 5 seconds of processor time at every start; what it wraps, the library
`tokenizers` and a sandboxed Jinja environment, costs a third of one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Tokenizer:
    """`special_tokens` by the names that templates know them by; `chat_template` is a Jinja template's text."""

    backend: Any
    special_tokens: Mapping[str, str]
    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self.backend.decode(tokens, skip_special_tokens=True))

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Up to where the assistant begins to speak. Raises whatever the template raises."""
        template = template_environment().from_string(self.chat_template or "")
        asked: dict[str, Any] = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return template.render(**{**self.special_tokens, **asked})

    @property
    def end_token(self) -> int | None:
        token = self.special_tokens.get("eos_token")
        return None if token is None else self.backend.token_to_id(token)

    @property
    def size(self) -> int:
        return int(self.backend.get_vocab_size())


def read_tokenizer(directory: Path) -> Tokenizer:
    """Raises what the files make Python and the libraries raise."""
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    config = read_settings(directory / "tokenizer_config.json")
    special = {
        name: content(token)
        for name, token in {**config, **read_settings(directory / "special_tokens_map.json")}.items()
        if name in SPECIAL_TOKENS and token is not None
    }
    _add_tokens(backend, config.get("added_tokens_decoder", {}), special)
    return Tokenizer(backend, special, _chat_template(directory, config.get("chat_template")))


def read_settings(file: Path) -> dict[str, Any]:
    """What a JSON file of the checkpoint says; nothing where it is missing. Raises ValueError, OSError."""
    try:
        settings = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(settings, dict):
        raise ValueError(f"{file.name} holds no JSON object.")
    return settings


def content(token: Any) -> str:
    """A token is written as text or as an object that says how it is matched."""
    return str(token["content"] if isinstance(token, dict) else token)


def _add_tokens(backend: Any, declared: Mapping[str, Mapping[str, Any]], special: Mapping[str, str]) -> None:
    """Tokens of tokenizer_config.json that tokenizer.json lacks, and the roles that it does not mark as special."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for _, fields in sorted(declared.items(), key=lambda item: int(item[0])):
        if fields["content"] not in known:
            token = tokenizers.AddedToken(**{name: value for name, value in fields.items() if name != "__type"})
            backend.add_tokens([token]) if not token.special else backend.add_special_tokens([token])
            known[token.content] = token
    backend.add_special_tokens([token for token in dict.fromkeys(special.values()) if token not in known])


def _chat_template(directory: Path, configured: Any) -> str | None:
    """The file, else what tokenizer_config.json says: one template, or several of which one is the default."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):
        configured = {template["name"]: template["template"] for template in configured}
    return configured.get("default") if isinstance(configured, dict) else configured


class _GenerationBlock(Extension):
    """`{% generation %}` marks for training what the assistant said; to a server it is what stands inside."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: transformers' environment, which runs them in a sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes what HTML would misread."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
