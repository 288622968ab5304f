"""What the operator's log looks like to a machine."""

import json
import logging
import sys

import pytest

from neuronmodel_operator.runtime.logs import RETRIES_A_LINE, JSONFormatter, configure, is_news


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord(
        "neuronmodel_operator.cluster.apply", logging.INFO, "", 0, "made %s\n%s", ("Job", "é"), None
    )
    made.__dict__.update(extra)
    return made


def test_a_line_is_one_json_object_that_names_its_model() -> None:
    text = JSONFormatter().format(record(namespace="demo", model="smol"))
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["namespace"], line["model"], line["level"]) == ("made Job\né", "demo", "smol", "INFO")


def test_an_exception_stays_on_the_line() -> None:
    made = record()
    try:
        raise ValueError("bad")
    except ValueError:
        made.exc_info = sys.exc_info()
    text = JSONFormatter().format(made)
    assert "\n" not in text
    assert "ValueError: bad" in json.loads(text)["exception"]


@pytest.mark.parametrize(("number", "is_reported"), [(1, True), (2, False), (50, False), (RETRIES_A_LINE + 1, True)])
@pytest.mark.parametrize("of", ["", "/13"])
def test_a_request_that_kopf_retries_for_ever_is_logged_now_and_then(number: int, of: str, is_reported: bool) -> None:
    text = f"Request attempt #{number}{of} failed; will retry: GET https://10.0.0.1/api/v1/pods -> Forbidden"
    made = logging.LogRecord("kopf", logging.ERROR, "", 0, text, None, None)
    assert is_news(made) == is_reported
    assert is_news(record())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="text or json"):
        configure("yaml")
