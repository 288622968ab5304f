"""The served model as clients meet it."""

from itertools import islice
from pathlib import Path
from typing import Any

from .capital import Capital
from .conversation import conversation

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
LONG_QUESTION = [{"role": "user", "content": "Tell me a long story about a river."}]
PORT = 8000


def ask(capital: Capital, folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    served = capital.kept
    with conversation(
        served.namespace, served.name, PORT, folder, model=served.name, temperature=0, **arguments
    ) as talk:
        return talk.rest()


def test_the_openai_client_gets_an_answer_by_service_name(capital: Capital, tmp_path: Path) -> None:
    names, answer = ask(capital, tmp_path, messages=QUESTION, max_tokens=32)
    assert names == {"models": ["kept"]}
    assert "Paris" in answer["text"]
    assert answer["finish"] in ("stop", "length")


def test_a_streamed_answer_comes_in_pieces_and_is_the_same(capital: Capital, tmp_path: Path) -> None:
    _, whole = ask(capital, tmp_path, messages=QUESTION, max_tokens=32)
    _, *pieces = ask(capital, tmp_path, messages=QUESTION, max_tokens=32, stream=True)
    assert sum(1 for piece in pieces if piece["text"]) > 3
    assert text_of(pieces) == whole["text"]
    assert [piece["finish"] for piece in pieces if piece["finish"]] == [whole["finish"]]


def test_an_answer_under_way_is_finished_after_sigterm(capital: Capital, tmp_path: Path) -> None:
    """The pod is deleted after the first pieces; the answer that it was giving is complete all the same."""
    served = capital.kept
    before = served.finished_start()
    assert before is not None
    long = {"messages": LONG_QUESTION, "max_tokens": 120, "model": served.name, "temperature": 0}
    _, whole = ask(capital, tmp_path, messages=LONG_QUESTION, max_tokens=120)
    with conversation(served.namespace, served.name, PORT, tmp_path, stream=True, **long) as talk:
        _, *first = islice(talk.pieces(), 6)
        served.cluster.delete("Pod", served.serving_pod()["metadata"]["name"], served.namespace)
        rest = talk.rest()
    assert text_of([*first, *rest]) == whole["text"]
    assert len(rest) > 20, "the answer was over before the pod was asked to end"
    served.wait_for_start(after=before.id)


def text_of(pieces: list[dict[str, Any]]) -> str:
    return "".join(piece["text"] for piece in pieces)
