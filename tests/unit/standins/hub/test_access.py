"""Who may list and read what."""

import pytest

from tests.standins.hub import Hub
from tests.unit.standins.hub.asking import ask
from tests.unit.standins.hub.conftest import REPOSITORY, WEIGHTS, file_url

GRANTED, STRANGER, NARROW = "hf_granted", "hf_stranger", "hf_narrow"


@pytest.fixture(autouse=True)
def tokens(hub: Hub) -> None:
    hub.add_token(GRANTED, "granted")
    hub.add_token(STRANGER, "stranger")
    hub.add_token(NARROW, "granted", reads_private=False)
    hub.repository(REPOSITORY).grants = {"granted"}


def listing(hub: Hub, token: str | None = None) -> tuple[int, str | None]:
    return ask(f"{hub.endpoint}/api/models/{REPOSITORY}", token=token).error


def reading(hub: Hub, token: str | None = None) -> tuple[int, str | None]:
    return ask(file_url(hub, WEIGHTS), token=token).error


def test_a_public_repository_needs_no_token_and_takes_any_that_is_valid(hub: Hub) -> None:
    assert {listing(hub), listing(hub, STRANGER), listing(hub, NARROW)} == {(200, None)}
    assert {reading(hub), reading(hub, STRANGER), reading(hub, NARROW)} == {(302, None)}


def test_an_invalid_token_is_refused_on_a_public_repository_too(hub: Hub) -> None:
    answer = ask(file_url(hub, WEIGHTS), token="hf_nobody")
    assert answer.error == (401, None)
    assert answer.headers["X-Error-Message"] == "Invalid credentials in Authorization header"


def test_a_private_repository_is_not_told_from_a_missing_one(hub: Hub) -> None:
    hub.repository(REPOSITORY).private = True
    assert listing(hub) == reading(hub) == (401, "RepoNotFound")
    assert listing(hub, STRANGER) == reading(hub, STRANGER) == (404, "RepoNotFound")
    assert listing(hub, GRANTED) == (200, None)
    assert reading(hub, GRANTED) == (302, None)


def test_a_gated_repository_is_listed_and_not_read(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    assert ask(f"{hub.endpoint}/api/models/{REPOSITORY}").json["gated"] == "manual"
    assert reading(hub) == (401, "GatedRepo")
    assert reading(hub, STRANGER) == (403, "GatedRepo")
    assert reading(hub, GRANTED) == (302, None)


def test_behind_the_redirect_a_gated_file_is_refused_too(hub: Hub) -> None:
    location = ask(file_url(hub, "config.json")).headers["Location"]
    hub.repository(REPOSITORY).gated = "auto"
    assert ask(hub.endpoint + location).error == (401, "GatedRepo")
    assert ask(hub.endpoint + location, token=GRANTED).status == 200


def test_access_is_given_at_run_time(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    assert reading(hub, STRANGER) == (403, "GatedRepo")
    hub.repository(REPOSITORY).grants.add("stranger")
    assert reading(hub, STRANGER) == (302, None)


def test_a_token_is_revoked_at_run_time(hub: Hub) -> None:
    hub.revoke(GRANTED)
    assert reading(hub, GRANTED) == (401, None)


@pytest.mark.parametrize("restriction", [{"private": True}, {"gated": "manual"}])
def test_a_token_without_the_scope_is_refused_where_it_is_needed(hub: Hub, restriction: dict[str, bool | str]) -> None:
    vars(hub.repository(REPOSITORY)).update(restriction)
    assert reading(hub, NARROW) == (403, None)


def test_a_disabled_repository_says_so(hub: Hub) -> None:
    hub.repository(REPOSITORY).disabled = True
    answer = ask(file_url(hub, WEIGHTS), token=GRANTED)
    assert answer.error == (403, None)
    assert answer.headers["X-Error-Message"] == "Access to this resource is disabled."


def test_auth_check_asks_for_what_reading_needs(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"
    url = f"{hub.endpoint}/api/models/{REPOSITORY}/auth-check"
    assert [ask(url, token=token).status for token in (None, STRANGER, GRANTED)] == [401, 403, 200]
