"""What the operator understands of its environment, and how it refuses what it does not."""

import pytest

from neuronmodel_api.sources import HuggingFace
from neuronmodel_api.sources.hugging_face import PUBLIC_HUB
from neuronmodel_operator.settings import Settings


def test_without_variables_only_the_public_hub_is_allowed_and_is_asked_each_hour() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.sources[HuggingFace].endpoints == (PUBLIC_HUB,)
    assert settings.sources[HuggingFace].check_seconds == 3600
    assert not settings.allow_http
    assert settings.proxy == {}


def test_variables_that_the_chart_leaves_empty_are_as_if_absent() -> None:
    empty = ("HUB_ENDPOINTS", "HUB_CHECK_SECONDS", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    assert Settings.from_environment({f"NEURONMODEL_{name}": "" for name in empty}) == Settings()


def test_endpoints_that_are_named_take_the_public_one_s_place() -> None:
    endpoints = "https://hub.example.com, http://[fd00::1]:8080/mirror/"
    settings = Settings.from_environment({"NEURONMODEL_HUB_ENDPOINTS": endpoints, "NEURONMODEL_ALLOW_HTTP": "true"})
    assert settings.sources[HuggingFace].endpoints == ("https://hub.example.com", "http://[fd00::1]:8080/mirror/")
    assert settings.allow_http


@pytest.mark.parametrize(("given", "understood"), [("0", None), ("60", 60), ("2592000", 2_592_000)])
def test_a_revision_is_asked_for_as_often_as_it_says_or_never(given: str, understood: int | None) -> None:
    assert (
        Settings.from_environment({"NEURONMODEL_HUB_CHECK_SECONDS": given}).sources[HuggingFace].check_seconds
        == understood
    )


def test_the_pods_get_the_variables_of_proxies_that_are_set() -> None:
    env = {"NEURONMODEL_HTTPS_PROXY": "http://proxy.example.com:3128", "NEURONMODEL_NO_PROXY": ".svc,10.0.0.0/8"}
    assert Settings.from_environment({**env, "NEURONMODEL_HTTP_PROXY": ""}).proxy == {
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "NO_PROXY": ".svc,10.0.0.0/8",
    }


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("NEURONMODEL_ALLOW_HTTP", "perhaps", "it takes true or false"),
        ("NEURONMODEL_HUB_ENDPOINTS", "https://hub.example.com,hub.example.com", "at place 2 what is no URL"),
        ("NEURONMODEL_HUB_ENDPOINTS", f"https://me:{SECRET}@hub.example.com", "without a user, a password"),
        ("NEURONMODEL_HUB_ENDPOINTS", f"https://hub.example.com/?token={SECRET}", "without a user, a password"),
        ("NEURONMODEL_HUB_ENDPOINTS", "https://hub.example.com#part", "no URL of a server"),
        ("NEURONMODEL_HUB_ENDPOINTS", "ftp://hub.example.com", "no URL of a server"),
        ("NEURONMODEL_HUB_ENDPOINTS", "https://", "no URL of a server"),
        ("NEURONMODEL_HUB_ENDPOINTS", "https://[::1", "no URL of a server"),
        ("NEURONMODEL_HUB_ENDPOINTS", "https://hub.example.com:port", "no URL of a server"),
        ("NEURONMODEL_HUB_CHECK_SECONDS", "59", "from 60 to 2592000, or 0 for never"),
        ("NEURONMODEL_HUB_CHECK_SECONDS", "2592001", "from 60 to 2592000, or 0 for never"),
        ("NEURONMODEL_HUB_CHECK_SECONDS", "-1", "is '-1'"),
        ("NEURONMODEL_HUB_CHECK_SECONDS", "1h", "is '1h'"),
        ("NEURONMODEL_HTTPS_PROXY", "proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("NEURONMODEL_HTTP_PROXY", f"http://me:{SECRET}@proxy.example.com", "spec.worker.env"),
        ("NEURONMODEL_NO_PROXY", f"me:{SECRET}@internal", "names of hosts"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_variable_and_without_what_may_be_secret(
    variable: str, value: str, says: str
) -> None:
    with pytest.raises(ValueError, match=variable) as refused:
        Settings.from_environment({variable: value})
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)
