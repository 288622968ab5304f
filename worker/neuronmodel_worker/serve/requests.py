"""The requests that clients may send, with OpenAI's field names. A field that would have no effect is refused, not
ignored."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from neuronmodel_worker.engines import Sampling

Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]

DEFAULT_COMPLETION_TOKENS = 16
"""The limit of a completion without max_tokens, the same as OpenAI's."""


class StreamOptions(BaseModel):
    """OpenAI's stream_options."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted and without effect: nothing is ever obfuscated."""


class Request(BaseModel):
    """The fields that both kinds of completion share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # OpenAI's fields that this server does not implement, each with the values that leave the feature off.
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n": (None, 1),
        "best_of": (None, 1),
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "logit_bias": (None, {}),
        "presence_penalty": (None, 0),
        "frequency_penalty": (None, 0),
        "echo": (None, False),
        "suffix": (None, ""),
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "parallel_tool_calls": (None, True, False),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "response_format": (None, {"type": "text"}),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "reasoning_effort": (None,),
    }
    # Fields that describe the caller and ask for nothing.
    remarks: ClassVar[frozenset[str]] = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
    )

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_has_no_effect(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, nothing in cls.without_effect.items():
            if name in data and not any(_same(data[name], each) for each in nothing):
                raise ValueError(f"{name}={data[name]!r} is not supported by this server: leave {name} out")
        ignored = cls.without_effect.keys() | cls.remarks
        return {name: value for name, value in data.items() if name not in ignored}

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def answer_limits(self) -> dict[str, int]:
        """The limits on the answer's length, by the names of their fields; the one in force comes first."""
        given = {name: getattr(self, name, None) for name in ("max_completion_tokens", "max_tokens")}
        return {name: limit for name, limit in given.items() if limit is not None}

    @property
    def max_answer_tokens(self) -> int | None:
        return next(iter(self.answer_limits.values()), None)

    @property
    def reports_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, defaults: Sampling) -> Sampling:
        return Sampling(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k if self.temperature is None and self.top_p is None else None,
            seed=self.seed,
        )


def _same(value: Any, other: Any) -> bool:
    """Compares as JSON does: Python takes 0 and False for equal, but `logprobs=0` asks for something and False does
    not."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


class CompletionRequest(Request):
    """A request to /v1/completions."""

    prompt: str | Annotated[list[int], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        if isinstance(value, list) and isinstance(value[0], str):
            if len(value) > 1:
                raise ValueError(f"{len(value)} prompts came in one request: send one request for each")
            return value[0]
        return value


class TextPart(BaseModel):
    """A part of a chat message; only text is supported."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A chat message. Other fields (`name`, `tool_call_id`) are passed to the model's chat template unchanged."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None
    """None if an assistant called tools and wrote no text."""

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and not (self.model_extra or {}).get("tool_calls"):
            raise ValueError("content is missing: it may be null beside tool_calls alone")
        return self

    def for_template(self, *, in_parts: bool) -> dict[str, Any]:
        """Returns the message for the chat template. With `in_parts`, content of several parts stays a list, for
        templates that iterate over them."""
        content = self.content
        if isinstance(content, list) and not in_parts:
            return {**self.model_dump(), "content": "".join(part.text for part in content)}
        return self.model_dump()


class ChatRequest(Request):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
