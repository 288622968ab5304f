from enum import Enum


class hardware(Enum):  # noqa: N801 - its name there
    INF2 = "inf2"
    TRN1 = "trn1"
    TRN2 = "trn2"
    TRN3 = "trn3"
