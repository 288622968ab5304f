"""Calls of the `huggingface_hub` that runs this: a list of them as JSON on stdin, what each gave as JSON on stdout.

It is run by an interpreter that has nothing of the project.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi

CALLS: dict[str, Callable[..., Any]] = {}


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    CALLS[function.__name__] = function
    return function


@call
def version() -> str:
    return huggingface_hub.__version__


@call
def model_info(**given: Any) -> dict[str, Any]:
    told = HfApi().model_info(**given)
    files = {sibling.rfilename: sibling.size for sibling in told.siblings or []}
    return {"id": told.id, "sha": told.sha, "private": told.private, "gated": told.gated, "files": files}


@call
def list_repo_tree(**given: Any) -> dict[str, str | None]:
    """Paths, each with its sha256 if it has one."""
    listed = HfApi().list_repo_tree(recursive=True, **given)
    return {entry.path: _sha256(entry) for entry in listed}


@call
def get_paths_info(**given: Any) -> dict[str, str | None]:
    return {entry.path: _sha256(entry) for entry in HfApi().get_paths_info(**given)}


@call
def auth_check(**given: Any) -> None:
    HfApi().auth_check(**given)


@call
def get_hf_file_metadata(repo_id: str, filename: str, **given: Any) -> dict[str, Any]:
    told = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo_id, filename), **given)
    return {"commit": told.commit_hash, "etag": told.etag, "location": told.location, "size": told.size}


@call
def hf_hub_download(**given: Any) -> str:
    return str(huggingface_hub.hf_hub_download(**given))


@call
def snapshot_download(**given: Any) -> str:
    return str(huggingface_hub.snapshot_download(**given))


def _sha256(entry: Any) -> str | None:
    lfs = getattr(entry, "lfs", None)
    return lfs.sha256 if lfs else None


def answered(name: str, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": CALLS[name](**given)}
    except Exception as error:
        classes = [base.__name__ for base in type(error).__mro__]
        return {"error": classes[0], "classes": classes, "message": str(error)}


if __name__ == "__main__":
    json.dump([answered(name, given) for name, given in json.load(sys.stdin)], sys.stdout)
