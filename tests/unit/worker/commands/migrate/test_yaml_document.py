"""YAML by hand: what is written is read as it was meant, by readers of YAML 1.1."""

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuronmodel_worker.commands.migrate.yaml_document import Commented, lines_of

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        ["yes", "No", "null", "~", "1e3", "0x1", "1Ti", "2026-11-23", "a: b", "- a", "#a", "", " a ", "=", "."]
    )
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
COMMENTS = st.text(max_size=200)


def read(fields: dict[str, Any]) -> Any:
    return yaml.safe_load("\n".join(lines_of(fields)))


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_everything_is_read_as_it_was_written(fields: dict[str, Any]) -> None:
    assert read(fields) == fields


@given(VALUES, COMMENTS)
def test_comments_change_nothing(value: Any, comment: str) -> None:
    assert read({"key": Commented(value, comment), "items": [Commented(1, comment)]}) == {"key": value, "items": [1]}


def test_it_looks_as_if_a_person_had_written_it() -> None:
    fields = {
        "spec": {
            "path": Commented("Llama-3.1/8B", "Why it is so."),
            "size": "32Gi",
            "empty": {},
            "extra": [{"name": "buckets", "value": [128, 256]}, {"name": "yes", "value": "a b"}],
        }
    }
    assert list(lines_of(fields)) == [
        "spec:",
        "  # Why it is so.",
        "  path: Llama-3.1/8B",
        "  size: 32Gi",
        "  empty: {}",
        "  extra:",
        "    - {name: buckets, value: [128, 256]}",
        '    - {name: "yes", value: "a b"}',
    ]
