"""References of a spec to Secrets and ConfigMaps, which are in the NeuronModel's namespace."""

from neuronmodel_api.model import Tolerant


class KeyRef(Tolerant):
    """A key of a Secret or a ConfigMap."""

    name: str
    key: str


class CABundle(Tolerant):
    """Exactly one member is set."""

    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
