"""Levels at which libraries compute as on an older processor, and whether one is in force: a variable that no library
heeds tests nothing, and must not look as if it did."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

LOWEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Prescott",
}
"""What no processor of 64 bits is below. Variables of libraries that are not there do nothing."""

LEVELS: tuple[Mapping[str, str], ...] = (
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"OPENBLAS_CORETYPE": "Prescott"},
    {"OPENBLAS_CORETYPE": "Haswell"},
    LOWEST,
)
TALKING = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
"""What makes a child say which library multiplies, and how."""


@dataclass(frozen=True)
class Sign:
    library: str
    multiplied: str
    """A line that the library prints when it is used."""
    in_force: Mapping[str, str]
    """The line that says so, by the variable's value."""


SIGNS = {
    "ATEN_CPU_CAPABILITY": Sign(
        "PyTorch's own code", r"^CAPABILITY", {"default": r"^CAPABILITY (NO AVX|DEFAULT)", "avx2": r"^CAPABILITY AVX2"}
    ),
    "ONEDNN_MAX_CPU_ISA": Sign(
        "oneDNN",
        r"^onednn_verbose.*,exec,",
        {"SSE41": r"^onednn_verbose.*isa:.*SSE4\.1", "AVX2": r"^onednn_verbose.*isa:.*AVX2"},
    ),
    "MKL_CBWR": Sign("MKL", r"^MKL_VERBOSE S?GEM", {"COMPATIBLE": r"^MKL_VERBOSE SGEM.* CNR:COMPATIBLE"}),
    "OPENBLAS_CORETYPE": Sign(
        "OpenBLAS",
        r"^BLAS .*/openblas",
        {"Prescott": r"^BLAS .*/openblas.* Prescott$", "Haswell": r"^BLAS .*/openblas.* Haswell$"},
    ),
}


def title(level: Mapping[str, str]) -> str:
    return "lowest" if level is LOWEST else " ".join(f"{name}={value}" for name, value in level.items())


def without_effect(level: Mapping[str, str], output: str) -> str | None:
    """Why none of these variables does anything where `answers.py --multiply` printed this; None where one does."""
    reasons = [_without_effect(SIGNS[name], name, value, output) for name, value in level.items()]
    return None if None in reasons else "; ".join(filter(None, reasons))


def _without_effect(sign: Sign, name: str, value: str, output: str) -> str | None:
    if not re.search(sign.multiplied, output, re.MULTILINE):
        return f"{name}={value} has no effect: {sign.library} multiplies nothing here"
    if not re.search(sign.in_force[value], output, re.MULTILINE):
        return f"{name}={value} has no effect: {sign.library} does not go there on this machine"
    return None
