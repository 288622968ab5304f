"""Refuses checkpoints that generate no text: classifiers, reward and embedding models."""

import re
from collections.abc import Mapping
from typing import Final

from neuronmodel_worker.checkpoint.checkpoint import Checkpoint
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.io.untrusted_input import shown

CAUSAL_LM: Final = re.compile(r"\w+(ForCausalLM|LMHeadModel)")
OTHER_ARCHITECTURE: Final = re.compile(
    r"\w+For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|RewardModel\w*|Reward\w*"
    r"|TextEncoding|TextEmbedding|Retrieval)|\w*(Reward|Embedding|Classif)\w*|\w+(?<!LMHead)Model"
)
"""Classes of transformers and of other libraries; the last alternative is a model without any head."""
OTHER_HEADS: Final = (
    "score.",
    "classifier.",
    "classification_head.",
    "qa_outputs.",
    "reward_head.",
    "regression_head.",
)
VALUE_HEADS: Final = ("v_head.", "value_head.")
"""The heads of a training with a critic, which may be in a checkpoint together with the model's own head."""


def require_causal_lm(checkpoint: Checkpoint) -> tuple[str, ...]:
    """For families that have a layout here. Returns warnings. Raises LayoutRefused."""
    has_head = any(name.endswith("lm_head.weight") for name in checkpoint.tensors)
    heads = OTHER_HEADS if has_head else OTHER_HEADS + VALUE_HEADS
    another = next((name for name in checkpoint.tensors if name.removeprefix("model.").startswith(heads)), None)
    architecture = _architecture(checkpoint.config)
    if another:
        of = f", and config.json names the architecture {architecture}" if architecture else ""
        raise LayoutRefused(
            f"The checkpoint in {checkpoint.path} is a classifier, a reward model or another one that gives no text: "
            f"it has the tensor {shown(another)}{of}. {REMEDY}"
        )
    if has_head or not architecture:
        return ()
    if not checkpoint.config.get("tie_word_embeddings"):
        raise LayoutRefused(
            f"config.json in {checkpoint.path} names the architecture {architecture}, which has no language model's "
            f"head, and the checkpoint holds no lm_head.weight: it gives no text. {REMEDY}"
        )
    return (
        f"config.json in {checkpoint.path} names the architecture {architecture}, which has no language model's head. "
        "As tie_word_embeddings is true, its embeddings are used as one: it gives text only if it was "
        f"trained to. {REMEDY}",
    )


REMEDY: Final = "Use a checkpoint of the kind that ends in ForCausalLM, such as the model that it was made from."


def _architecture(config: Mapping[str, object]) -> str | None:
    """The first known architecture in config.json that generates no text; None if one of them is a language model's."""
    named = config.get("architectures")
    classes = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    if any(map(CAUSAL_LM.fullmatch, classes)):
        return None
    return next((shown(each) for each in classes if OTHER_ARCHITECTURE.fullmatch(each)), None)
