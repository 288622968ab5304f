"""Command lines of `inference_demo` for tests, and what becomes of them."""

from dataclasses import dataclass
from typing import Any

import yaml

from neuronmodel_worker.commands.migrate import document_lines
from neuronmodel_worker.commands.migrate.given_flags import read_flags
from neuronmodel_worker.commands.migrate.neuronmodel import convert
from neuronmodel_worker.commands.migrate.options import Choices
from neuronmodel_worker.commands.migrate.shell_script import read_invocation

SMALLEST = "inference_demo --model-type {model_type} --task-type causal-lm run --model-path /models/Llama-3.1-8B"


@dataclass(frozen=True)
class Result:
    text: str
    left_out: dict[str, str]
    """Reasons by what was not carried over."""

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = yaml.safe_load(self.text)["spec"]
        return spec

    @property
    def unwrapped(self) -> str:
        """Comments without their line ends."""
        return " ".join(self.text.replace("#", " ").split())

    @property
    def extra(self) -> dict[str, Any]:
        return {item["name"]: item["value"] for item in self.spec["compile"].get("extra", ())}

    @property
    def env(self) -> dict[str, str]:
        return {item["name"]: item["value"] for item in self.spec.get("worker", {}).get("env", ())}


def converted(text: str, **choices: str) -> Result:
    """Of a shell's text."""
    found = convert(read_flags(read_invocation(text)), Choices(**choices))
    return Result("\n".join(document_lines(found)), {each.what: each.reason for each in found.left_out})


def with_flags(*flags: str, before: str = "", model_type: str = "llama", **choices: str) -> Result:
    """Of the smallest command with these flags, after lines `before` it."""
    return converted(f"{before}\n{SMALLEST.format(model_type=model_type)} {' '.join(flags)}\n", **choices)
