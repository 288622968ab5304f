"""What the Hub tells of a repository."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.standins.hub import Hub, Limit
from tests.unit.standins.hub.asking import ask
from tests.unit.standins.hub.conftest import NUM_BYTES, REPOSITORY, WEIGHTS, Clock, file_url, write_files


def api(hub: Hub, path: str = "", repository: str = REPOSITORY) -> str:
    return f"{hub.endpoint}/api/models/{repository}{path}"


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_a_model_has_its_commit_and_names_its_files(hub: Hub) -> None:
    told = ask(api(hub)).json
    assert re.fullmatch("[0-9a-f]{40}", told["sha"])
    assert (told["id"], told["private"], told["gated"], told["disabled"]) == (REPOSITORY, False, False, False)
    assert {"rfilename": "original/params.json"} in told["siblings"]


def test_with_blobs_large_files_have_sha256_and_the_others_gits_name(hub: Hub, weights: bytes, folder: Path) -> None:
    siblings = {sibling["rfilename"]: sibling for sibling in ask(api(hub, "?blobs=true")).json["siblings"]}
    assert siblings[WEIGHTS]["lfs"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert siblings[WEIGHTS]["size"] == NUM_BYTES
    assert siblings["config.json"]["blobId"] == git_oid((folder / "config.json").read_bytes())
    assert "lfs" not in siblings["config.json"]


def test_the_same_content_is_the_same_commit(hub: Hub, tmp_path: Path) -> None:
    hub.add_repository("other/copy", write_files(tmp_path / "copy"))
    hub.add_repository("other/change", write_files(tmp_path / "change", seed=1))
    assert hub.repository("other/copy").main == hub.repository(REPOSITORY).main
    assert hub.repository("other/change").main != hub.repository(REPOSITORY).main


def test_main_moves_and_the_old_commit_can_still_be_asked_for(hub: Hub, tmp_path: Path) -> None:
    old = hub.repository(REPOSITORY).main
    new = hub.add_revision(REPOSITORY, write_files(tmp_path / "new", seed=1), "v2")
    assert ask(api(hub, "/revision/main")).json["sha"] == old
    hub.repository(REPOSITORY).main = new
    assert ask(api(hub)).json["sha"] == new
    assert ask(api(hub, "/revision/v2")).json["sha"] == new
    assert ask(api(hub, f"/revision/{old}")).json["sha"] == old


def test_a_revision_may_contain_a_quoted_slash(hub: Hub, folder: Path) -> None:
    hub.add_revision(REPOSITORY, folder, "refs/pr/1")
    assert ask(api(hub, "/revision/refs%2Fpr%2F1")).status == 200
    assert ask(file_url(hub, "config.json", "refs%2Fpr%2F1")).status == 307


def test_a_repository_without_an_organisation_is_found(hub: Hub, folder: Path) -> None:
    hub.add_repository("gpt2", folder)
    assert ask(api(hub, "", "gpt2")).json["id"] == "gpt2"
    assert ask(api(hub, "/tree/main", "gpt2")).status == 200
    assert ask(f"{hub.endpoint}/gpt2/resolve/main/{WEIGHTS}").status == 302


def test_what_is_missing_is_told_apart(hub: Hub) -> None:
    hub.add_token("hf_valid", "somebody")
    assert ask(api(hub, "", "org/missing")).error == (401, "RepoNotFound")
    assert ask(api(hub, "", "org/missing"), token="hf_valid").error == (404, "RepoNotFound")
    assert ask(api(hub, "/revision/missing")).error == (404, "RevisionNotFound")
    missing = ask(file_url(hub, "missing.json"))
    assert missing.error == (404, "EntryNotFound")
    assert missing.headers["X-Repo-Commit"] == hub.repository(REPOSITORY).main


def test_a_tree_has_one_level_or_all(hub: Hub) -> None:
    assert [entry["path"] for entry in ask(api(hub, "/tree/main")).json] == [
        "README.md",
        "config.json",
        WEIGHTS,
        "original",
    ]
    below = ask(api(hub, "/tree/main?recursive=true")).json
    assert {"original/params.json", "original"} < {entry["path"] for entry in below}
    assert [entry["path"] for entry in ask(api(hub, "/tree/main/original")).json] == ["original/params.json"]
    assert ask(api(hub, "/tree/main/missing")).error == (404, "EntryNotFound")


def test_an_entry_of_a_large_file_has_its_digest(hub: Hub, weights: bytes) -> None:
    entry = next(entry for entry in ask(api(hub, "/tree/main")).json if entry["path"] == WEIGHTS)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(weights).hexdigest()}\n"
    pointer += f"size {NUM_BYTES}\n"
    assert (entry["type"], entry["size"], entry["oid"]) == ("file", NUM_BYTES, git_oid(pointer.encode()))
    digest = hashlib.sha256(weights).hexdigest()
    assert entry["lfs"] == {"oid": digest, "size": NUM_BYTES, "pointerSize": len(pointer)}


def test_a_tree_comes_in_pages_that_link_to_the_next(hub: Hub) -> None:
    hub.settings.page_size = 2
    url, paths, num_pages = api(hub, "/tree/main?recursive=true"), [], 0
    while url:
        answer = ask(url)
        paths += [entry["path"] for entry in answer.json]
        num_pages += 1
        match = re.fullmatch('<(.*)>; rel="next"', answer.headers["Link"] or "")
        url = match[1] if match else ""
    assert num_pages == 3
    assert paths == sorted(["README.md", "config.json", WEIGHTS, "original", "original/params.json"])


def test_pages_of_an_expanded_tree_have_a_size_of_their_own(hub: Hub) -> None:
    hub.settings.expanded_page_size = 1
    answer = ask(api(hub, "/tree/main?expand=true"))
    assert [entry["lastCommit"]["id"] for entry in answer.json] == [hub.repository(REPOSITORY).main]
    assert answer.headers["Link"]


def test_paths_info_tells_of_those_that_exist(hub: Hub) -> None:
    form = urlencode({"paths": [WEIGHTS, "missing", "original"], "expand": False}, doseq=True).encode()
    told = ask(api(hub, "/paths-info/main"), "POST", body=form).json
    assert [(entry["type"], entry["path"]) for entry in told] == [("file", WEIGHTS), ("directory", "original")]


@pytest.mark.parametrize("status", [301, 307])
def test_a_renamed_repository_is_redirected_on_the_same_host(hub: Hub, status: int) -> None:
    hub.rename(REPOSITORY, "neworg/newname", status)
    answer = ask(api(hub, "?blobs=true"))
    assert (answer.status, answer.headers["Location"]) == (status, "/api/models/neworg/newname?blobs=true")
    location = ask(file_url(hub, "config.json")).headers["Location"]
    assert location == "/neworg/newname/resolve/main/config.json"
    assert ask(hub.endpoint + location).status == 307


def test_every_answer_tells_the_limits(hub: Hub) -> None:
    answers = [ask(api(hub)), ask(api(hub, "", "org/missing")), ask(file_url(hub, WEIGHTS)), ask(hub.endpoint + "/x")]
    assert all(answer.headers["RateLimit-Policy"] for answer in answers)
    assert answers[0].headers["RateLimit"] == '"api";r=999;t=300'
    assert answers[2].headers["RateLimit"] == '"resolvers";r=4999;t=300'


def test_beyond_the_limit_a_client_is_told_how_long_to_wait(hub: Hub, clock: Clock) -> None:
    hub.rates.limits["api"] = Limit(1, 60)
    assert ask(api(hub)).status == 200
    clock.now += 20
    refused = ask(api(hub))
    assert (refused.status, refused.headers["RateLimit"]) == (429, '"api";r=0;t=40')
    assert refused.headers["Retry-After"] is None
    hub.rates.with_retry_after = True
    assert ask(api(hub)).headers["Retry-After"] == "40"
    assert ask(file_url(hub, WEIGHTS)).status == 302, "resolvers have a limit of their own"
    clock.now += 40
    assert ask(api(hub)).status == 200


def test_a_user_has_limits_apart_from_those_without_a_token(hub: Hub) -> None:
    hub.add_token("hf_valid", "somebody")
    hub.rates.limits["api"] = Limit(1)
    assert [ask(api(hub)).status, ask(api(hub)).status, ask(api(hub), token="hf_valid").status] == [200, 429, 200]


def test_whoami_knows_the_tokens_user(hub: Hub) -> None:
    hub.add_token("hf_valid", "somebody")
    assert ask(f"{hub.endpoint}/api/whoami-v2", token="hf_valid").json["name"] == "somebody"
    assert ask(f"{hub.endpoint}/api/whoami-v2").status == 401
