from enum import IntEnum

from torch_neuronx.utils import get_platform_target


class LogicalNCConfig(IntEnum):
    LNC_1 = 1
    LNC_2 = 2


def get_platform_lnc() -> LogicalNCConfig:
    """Returns the default number of physical cores of a logical one."""
    return LogicalNCConfig.LNC_2 if get_platform_target() in ("trn2", "trn3") else LogicalNCConfig.LNC_1
