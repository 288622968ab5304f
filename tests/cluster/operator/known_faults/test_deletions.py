"""Deletions in which something else goes at the same time, or is no longer there.

What other operators fell over: docs/reliability.md names each issue beside its test.
"""

import asyncio
import secrets
from pathlib import Path

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.cluster.operator.conftest import delete, made_namespace, suppress_gone
from tests.cluster.operator.known_faults.conftest import Model, Place
from tests.cluster.operator.process import ROLE_BINDING, OperatorProcess, complaint, until
from tests.cluster.operator.storage import source_claim

pytestmark = pytest.mark.asyncio(loop_scope="module")

DELETE = {"retention": "Delete"}


async def test_a_foreground_deletion_ends_and_makes_nothing_again(common: Place) -> None:
    models = [await common.make("kept"), await common.make("removed", artifacts=DELETE)]
    await asyncio.gather(*(model.serving() for model in models))
    before = [len(model.writes) for model in models]
    await asyncio.gather(*(model.delete("Foreground") for model in models))
    await asyncio.gather(*(until(model.is_gone) for model in models))
    after = [[each.request for each in model.writes[since:]] for model, since in zip(models, before, strict=True)]
    made = [[str(request) for request in requests if request.verb == "create"] for requests in after]
    applied = [str(request) for requests in after for request in requests if request.resource != names.PLURAL]
    assert made == [[], ["create jobs"]], "the clean-up alone"
    assert [each for each in applied if each.startswith("patch")] == []


async def test_a_deletion_while_the_first_pod_still_waits_for_a_node_ends_clean(common: Place) -> None:
    common.played.held.add("waiting")
    model = await common.make("waiting", artifacts=DELETE)
    await until(lambda: model.all_of(client.POD))
    await model.delete()
    await until(lambda: is_being_cleaned(model))
    common.played.held.remove("waiting")
    await until(model.is_gone)
    await until(lambda: model.has_none_of(client.CLAIM, client.JOB, client.POD))


async def is_being_cleaned(model: Model) -> bool:
    """Whether only the clean-up is left."""
    jobs = await model.all_of(client.JOB)
    return [job["metadata"]["labels"][names.LABEL_COMPONENT] for job in jobs] == [names.COMPONENT_CLEANUP]


async def test_a_claim_that_is_deleted_before_it_was_cleaned_holds_nothing_up(common: Place) -> None:
    model = await common.make("bereft", artifacts=DELETE)
    await model.serving()
    common.played.held.add("bereft")
    await model.delete()
    await until(lambda: is_being_cleaned(model))
    await common.by_kubectl("delete", "persistentvolumeclaim", model.claim, "--wait=false")
    await until(model.is_gone)
    (warning,) = await until(lambda: model.events("CleanupAbandoned"))
    assert "is gone" in warning["message"]
    await until(lambda: model.has_none_of(client.JOB, client.DEPLOYMENT))


async def test_one_of_the_same_name_that_follows_at_once_is_served_by_its_own_children(common: Place) -> None:
    former = await common.make("again")
    await former.serving()
    await former.delete()
    await until(former.is_gone)
    model = await common.make("again")
    await model.serving()
    await until(lambda: has_only_its_own(model))
    assert len(model.written("jobs", "create")) == 2


async def has_only_its_own(model: Model) -> bool:
    kinds = (client.JOB, client.POD, client.DEPLOYMENT, client.SERVICE)
    found = [o for kind in kinds for o in await model.all_of(kind)]
    return {o["metadata"]["labels"][names.LABEL_UID] for o in found} == {model.uid}


async def test_a_model_goes_with_its_namespace_without_the_clean_up_that_has_no_place_any_more(
    api: Api, common: Place, kubeconfig: str, tmp_path: Path
) -> None:
    """By an operator whose rights do not lie in the namespace, as where it operates all of them. The NeuronModel is
    deleted as the namespace's controller does, which may be busy with other namespaces."""
    async with made_namespace(api, f"{common.namespace}-{secrets.token_hex(2)}") as namespace:
        await api.create(client.CLAIM, namespace, source_claim(common.namespace))
        operator = OperatorProcess([namespace], Path(kubeconfig), tmp_path / "other.log")
        try:
            operator.start()
            artifacts = {"template": {"size": "1Gi"}} | DELETE
            made = await common.played.make(namespace, "smol", {"artifacts": artifacts})
            await common.played.until(namespace, "smol", lambda sight: sight.is_serving, "serving")
            await delete(api, client.NAMESPACE, await api.get(client.NAMESPACE, None, namespace))
            with suppress_gone():
                await delete(api, client.MODEL, made)
            await until(lambda: is_without_model(api, namespace))
        finally:
            operator.kill_if_alive()
            print((tmp_path / "other.log").read_text())


async def is_without_model(api: Api, namespace: str) -> bool:
    return await api.get(client.MODEL, namespace, "smol") is None


async def test_an_operator_whose_rights_go_before_the_model_says_so_and_the_finalizer_can_be_removed_by_hand(
    place: Place,
) -> None:
    """As where they lie in a namespace that is deleted: in which order, nobody says."""
    await place.start()
    model = await place.make(artifacts=DELETE)
    await model.serving()
    (binding,) = await place.api.list(ROLE_BINDING, place.namespace)
    await delete(place.api, ROLE_BINDING, binding)
    await model.delete()
    text = await until(lambda: complaint(place.operator, "lacks rights"))
    assert f"in namespace {place.namespace}" in text
    assert not await model.is_gone()
    await place.by_kubectl("patch", "neuronmodel", "smol", "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    await until(model.is_gone)
