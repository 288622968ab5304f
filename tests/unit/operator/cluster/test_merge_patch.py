"""What is written of a status is what makes the stored one the wanted one, and nothing more."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from neuronmodel_operator.cluster.apply import merge_patch

LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
DOCUMENTS = st.dictionaries(
    st.sampled_from("abcd"),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=6),
)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = patched(target.get(key), value)
    return target


@settings(deadline=None)  # a busy machine is no error
@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_makes_the_old_document_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert patched(old, merge_patch(old, new)) == new


@settings(deadline=None)  # a busy machine is no error
@given(DOCUMENTS)
def test_nothing_is_written_when_nothing_changed(document: dict[str, Any]) -> None:
    assert merge_patch(document, document) == {}


def test_what_is_unchanged_is_not_written_again() -> None:
    old = {"phase": "Preparing", "artifacts": {"claimName": "a", "missed": "all"}, "workers": [1, 2]}
    new = {"phase": "Ready", "artifacts": {"claimName": "a"}, "workers": [1, 2]}
    assert merge_patch(old, new) == {"phase": "Ready", "artifacts": {"missed": None}}
