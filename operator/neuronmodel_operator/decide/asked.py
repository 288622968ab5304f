"""What a NeuronModel asks for, with all defaults resolved."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.config import Strategy
from neuronmodel_api.reasons import Reason
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.manifests import hashes, instance_type
from neuronmodel_operator.manifests.deployment import stored
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.objects import selected_instance_type
from neuronmodel_operator.state.observed import ObservedModel

SHAREABLE_MODES: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})


@dataclass(frozen=True)
class Asked:
    """The resolved spec. `children` show what earlier versions of the operator made of an absent field, so that an
    upgrade changes nothing."""

    children: Children
    settings: Settings

    @property
    def model(self) -> ObservedModel:
        return self.children.observed.model

    @property
    def spec(self) -> NeuronModelSpec:
        return self.model.spec

    @property
    def status(self) -> NeuronModelStatus:
        """The status as it was last written."""
        return self.model.status

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy of the spec; Auto if it is absent."""
        if self.spec.sharding.strategy:
            return self.spec.sharding.strategy
        return Strategy.SHARD_ON_COMPILE if self._is_from_before_auto else Strategy.AUTO

    @cached_property
    def _is_from_before_auto(self) -> bool:
        """Whether an absent strategy means ShardOnCompile, as it once did. What was prepared that way stays as long as
        the spec is unchanged: an upgrade of the operator alone rebuilds and restarts nothing."""
        recorded = self.status.strategy
        if recorded and recorded.reason != Reason.NOT_SPECIFIED:
            return False
        former = self.hash_of_inputs(Strategy.SHARD_ON_COMPILE)
        in_force = self.children.in_force is not None and self.children.in_force.inputs_hash == former
        return in_force or any(job.inputs_hash == former for job in self.children.jobs)

    @property
    def artifacts_claim(self) -> str:
        named = self.spec.artifacts.persistent_volume_claim
        return named.claim_name if named else names.templated_claim(self.model.name)

    @cached_property
    def inputs_hash(self) -> str:
        return self.hash_of_inputs(self.strategy)

    def hash_of_inputs(self, strategy: Strategy) -> str:
        """Returns the hash of the inputs. Earlier versions did not include the machine, so their hash is kept for what
        they made for the same instance type: an upgrade of the operator alone rebuilds nothing."""
        wanted = instance_type.instance_type(self.spec)
        former = self._hash_for(strategy, "")
        if wanted in self._instance_types(former):
            return former
        return self._hash_for(strategy, wanted)

    def _hash_for(self, strategy: Strategy, wanted: str) -> str:
        return hashes.inputs_hash(self.spec, strategy, self.artifacts_claim, wanted, self.restart)

    @cached_property
    def source_hash(self) -> str | None:
        return hashes.source_hash(self.spec, self.restart)

    @property
    def restart(self) -> str:
        return self.model.annotations.get(names.ANNOTATION_RESTART, "")

    def _instance_types(self, inputs_hash: str) -> set[str | None]:
        """Returns the instance types for which objects with these inputs were created."""
        found = {job.instance_type for job in self.children.jobs if job.inputs_hash == inputs_hash}
        if self.children.deployment and self.children.in_force and self.children.in_force.inputs_hash == inputs_hash:
            template = stored(self.children.deployment.object)
            found |= {selected_instance_type(template.manifest)} if template else set()
        return found

    @cached_property
    def target(self) -> str:
        return hashes.target_hash(self.spec, self.strategy, self.restart)

    @property
    def retry(self) -> str:
        return self.model.annotations.get(names.ANNOTATION_RETRY, "")

    @property
    def image(self) -> str | None:
        return self.spec.worker.image or self.settings.worker_images.get(self.spec.engine)

    @property
    def replicas(self) -> int:
        """The number of replicas to render: at most one if more could not share their volumes."""
        if self.spec.suspend:
            return 0
        wanted = self.spec.serving.replicas
        return min(wanted, 1) if self.unshareable_claim else wanted

    @cached_property
    def unshareable_claim(self) -> str | None:
        """The claim that prevents more than one replica, if more are requested; None if all can be shared."""
        if self.spec.serving.replicas <= 1:
            return None
        source = self.spec.model.source.persistent_volume_claim
        needed = [self.artifacts_claim, *([source.claim_name] if source else [])]
        return next((name for name in needed if not self._is_shareable(name)), None)

    def _is_shareable(self, name: str) -> bool:
        found = self.children.claim(name).object
        if found is not None:
            return bool(SHAREABLE_MODES.intersection(found.get("spec", {}).get("accessModes") or ()))
        template = self.spec.artifacts.template
        if template is None or name != names.templated_claim(self.model.name):
            return True  # unknown; its condition reports that it is missing
        return bool(SHAREABLE_MODES.intersection(template.access_modes))

    @property
    def has_foreign_claim(self) -> bool:
        """Whether a claim of the templated name exists that is not ours; it is neither mounted nor deleted."""
        claim = self.children.claim(self.artifacts_claim).object
        if claim is None or self.spec.artifacts.template is None:
            return False
        ours = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: self.model.name}
        return not ours.items() <= (claim["metadata"].get("labels") or {}).items()

    def in_terms_of_claims(self, message: str) -> str:
        """Returns the message with the mount path of the artifacts replaced by the claim, which the user knows. (The
        worker itself names the source.)"""
        return message.replace(names.ARTIFACTS_MOUNT, f"claim {self.artifacts_claim}")
