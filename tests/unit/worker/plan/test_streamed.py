"""Whatever config.json and NeuronConfig hold, there is a plan or a sentence, and soon."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.layouts import FAMILIES
from neuronmodel_worker.layouts.flag_support import CHOICES, SWITCHES, WITHOUT_LAYOUT
from neuronmodel_worker.plan.streamed import make_plan
from tests.unit.worker.sharding import CONFIG, small_source

NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 16, 64, 96, 128, 10**6, 10**12, 2**31, 2**63, 2**64, 10**30, 10**300]),
    st.integers(),
    st.floats(),
)
ANYTHING = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=20),
    st.sampled_from(["4", "4.0", "nan", "bfloat16", "float32", "torch.float16", "a" * 100_000, "two\nlines"]),
    st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.text(max_size=5), NUMBERS, max_size=3),
)
FIELDS = sorted({name for family in FAMILIES.values() for name in family.config.model_fields})
CHANGES = st.dictionaries(st.sampled_from([*FIELDS, "quantization_config", "rope_scaling"]), ANYTHING, max_size=4)
DEGREES = st.fixed_dictionaries({"tp_degree": st.sampled_from([1, 2, 3, 4, 8, 64])})
FLAGS = st.dictionaries(
    st.one_of(
        st.sampled_from(sorted(SWITCHES | CHOICES | WITHOUT_LAYOUT.keys() | {"pa_block_size"})), st.text(max_size=9)
    ),
    st.one_of(ANYTHING, st.booleans()),
    max_size=4,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(small_source(tmp_path_factory.mktemp("source")))


def plan_or_sentence(checkpoint: Checkpoint, config: dict[str, Any], flags: dict[str, Any]) -> None:
    changed = Checkpoint(checkpoint.source, config, checkpoint.tensors, checkpoint.files)
    try:
        plan = make_plan(changed, flags)
    except BadInput as refusal:
        sentence = str(refusal)
        assert sentence.endswith(".")
        assert len(sentence) < 2000
        sentence.encode()
    else:
        assert plan.output_bytes > 0
        assert plan.source_bytes >= 0
        assert plan.layout_inputs()


@settings(max_examples=150, deadline=None)
@given(family=st.sampled_from([*FAMILIES, "llama", "gpt2", ""]), changes=CHANGES, degree=DEGREES)
@example(family="llama", changes={"num_hidden_layers": 10**12}, degree={"tp_degree": 4})
@example(family="llama", changes={"num_attention_heads": 10**12}, degree={"tp_degree": 4})
@example(
    family="llama", changes={"num_attention_heads": 10**12, "num_key_value_heads": 10**12}, degree={"tp_degree": 4}
)
@example(family="mixtral", changes={"num_local_experts": 10**12}, degree={"tp_degree": 4})
def test_any_configuration_has_a_plan_or_a_sentence(
    checkpoint: Checkpoint, family: str, changes: dict[str, Any], degree: dict[str, int]
) -> None:
    plan_or_sentence(checkpoint, {**CONFIG, "model_type": family, **changes}, degree)


@settings(max_examples=150, deadline=None)
@given(flags=FLAGS)
@example(flags={"tp_degree": 10**12})
@example(flags={"tp_degree": 10**12, "local_ranks_size": 1})
def test_any_flags_have_a_plan_or_a_sentence(checkpoint: Checkpoint, flags: dict[str, Any]) -> None:
    plan_or_sentence(checkpoint, CONFIG, flags)
