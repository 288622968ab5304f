from enum import IntEnum

from torch_neuronx.utils import get_platform_target


class LogicalNCConfig(IntEnum):
    LNC_1 = 1
    LNC_2 = 2


def get_platform_lnc() -> LogicalNCConfig:
    """Physical cores of a logical one where nothing else is said."""
    return LogicalNCConfig.LNC_2 if get_platform_target() in ("trn2", "trn3") else LogicalNCConfig.LNC_1
