"""Whatever the API server answers to a write of the operator, the NeuronModel tells of it, and goes on after it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.cluster.operator.answer_table import rows_of_page, table, without_times, write_table
from tests.cluster.operator.answers import CASES, Case, Times, tried
from tests.cluster.operator.conftest import made_namespace
from tests.cluster.operator.played import playing
from tests.cluster.operator.process import (
    OperatorProcess,
    documented_rules,
    grant,
    grant_instead,
    is_healthy,
    make_account,
    until,
)
from tests.cluster.operator.storage import STORAGE_CLASS, VOLUME, remove, source_claim, storage_class
from tests.cluster.operator.trials import OTHER_IMAGE, Stage, Trial, own_namespace
from tests.cluster.operator.webhook import ANSWERS, listening

AT_ONCE = 14
"""Cases: with more of them, times would tell how busy the machine is."""


@pytest.fixture(autouse=True)
def webhooks_are_reachable(api: Api) -> None:
    """By an API server on this machine, whichever of its addresses that has."""
    host = urlsplit(api.server).hostname or ""
    with socket.socket() as tried:
        try:
            tried.bind((host, 0))
        except OSError:
            pytest.skip(f"left out: the API server at {host} can't call a webhook that only this machine reaches")


@asynccontextmanager
async def staged(api: Api, home: str, others: Sequence[str], kubeconfig: str, folder: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        account = folder / "kubeconfig"
        await make_account(api, home, Path(kubeconfig), account)
        for namespace in others:
            await stack.enter_async_context(made_namespace(api, namespace))
            await grant(api, namespace, home, documented_rules())
        await api.create(STORAGE_CLASS, None, storage_class(home))
        for namespace in (home, *others):
            await api.create(client.CLAIM, namespace, source_claim(home))
        stack.push_async_callback(remove, api, home, STORAGE_CLASS, VOLUME)
        operator = OperatorProcess([home, *others], account, folder / "operator.log")
        webhook = await stack.enter_async_context(listening(api, folder))
        played = await stack.enter_async_context(playing(api, home))
        stack.callback(operator.kill_if_alive)
        operator.start()
        await until(lambda: is_healthy(operator))
        yield Stage(api, played, webhook, operator, home)


async def test_every_answer_to_every_write_is_reported_and_work_continues_afterwards(
    api: Api, namespace: str, kubeconfig: str, tmp_path: Path
) -> None:
    """The table of docs/reliability.md has the same rows; with UPDATE_GOLDEN=1 it is rewritten, with the times."""
    slots = asyncio.Semaphore(AT_ONCE)
    own = [own_namespace(namespace, answer) for answer in ANSWERS]

    async with staged(api, namespace, own, kubeconfig, tmp_path) as stage:

        async def one(case: Case) -> Times | str:
            async with slots:
                try:
                    return await tried(case, stage)
                except Exception as error:
                    return f"{case.name}: {type(error).__name__} {error}"

        found = await asyncio.gather(*(one(case) for case in CASES))
    assert [failed for failed in found if isinstance(failed, str)] == []
    rows = table((case, times) for case, times in zip(CASES, found, strict=True) if isinstance(times, Times))
    print(*rows, sep="\n")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        write_table(rows)
    assert without_times(rows) == without_times(rows_of_page())


async def test_a_forbidden_read_is_reported_and_work_continues_afterwards(
    api: Api, namespace: str, kubeconfig: str, tmp_path: Path
) -> None:
    blind = f"{namespace}-blind"
    async with staged(api, namespace, [blind], kubeconfig, tmp_path) as stage:
        new, serving = (Trial(stage, blind, name, name == "serving") for name in ("new", "serving"))
        await serving.begin_serving()
        rules = documented_rules()
        await grant_instead(api, blind, namespace, without_lists_of_jobs(rules))
        # What serves, and what gets there by events alone, is looked at in mirrors: no right to list is missed.
        stage.played.held.update({new.name, serving.name})
        await new.make()
        await serving.change({"worker": {"image": OTHER_IMAGE}})
        for trial in (new, serving):
            sight = await trial.until(lambda sight: sight.ready.get("reason") == "NotPermitted", "telling of it")
            assert sight.ready["status"] == "Unknown"
            assert 'cannot list resource "jobs"' in sight.ready["message"]
            await until(partial(trial.warnings, "NotPermitted"), poll=0.2)
        await grant_instead(api, blind, namespace, rules)
        stage.played.held.clear()
        for trial in (new, serving):
            await trial.until(lambda sight: sight.is_serving, "serving")


def without_lists_of_jobs(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The watch stays: it is the look that is to fail."""
    return [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != "list"]} if "jobs" in rule["resources"] else rule
        for rule in rules
    ]
