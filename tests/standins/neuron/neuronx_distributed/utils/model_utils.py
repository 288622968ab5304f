from torch_neuronx.utils import get_platform_target


def get_platform_lnc() -> int:
    """Physical cores of a logical one where nothing else is said."""
    return 2 if get_platform_target() in ("trn2", "trn3") else 1
