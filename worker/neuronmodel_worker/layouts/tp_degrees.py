"""Which tensor parallel degrees fit a model: refuses one that does not, and names those that do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuronmodel_worker.failures import LayoutRefused

# More ranks than any machine has today. There is a file for each rank, so a typo must not ask for a billion of them.
MAX_DEGREE = 4096

NUM_NAMED = 12


@dataclass(frozen=True, slots=True)
class DegreeRule:
    """A condition for a degree. `sentence` says why a degree does not fit, with both numbers."""

    fits: Callable[[int], bool]
    sentence: Callable[[int], str]


def require_degree(degree: int, rules: Sequence[DegreeRule]) -> None:
    """Raises LayoutRefused with the sentence of the first rule that `degree` breaks, and the degrees that fit all
    rules."""
    for rule in rules:
        if not rule.fits(degree):
            fitting = [each for each in range(1, MAX_DEGREE + 1) if all(rule.fits(each) for rule in rules)]
            raise LayoutRefused(f"{rule.sentence(degree)} Degrees that fit: {nearest(fitting, degree)}.")


def nearest(fitting: Sequence[int], degree: int) -> str:
    """The `fitting` degrees that are nearest to `degree`, for a sentence."""
    chosen = sorted(sorted(fitting, key=lambda each: abs(each - degree))[:NUM_NAMED])
    return ", ".join(map(str, chosen)) + (", among others" if len(fitting) > NUM_NAMED else "")


def divides(sizes: dict[str, int], why: str) -> DegreeRule:
    """A rule that the degree has to divide all `sizes`; `why` completes the sentence with the reason."""

    def sentence(degree: int) -> str:
        uneven = [f"{name} {size}" for name, size in sizes.items() if size % degree]
        verb = "is" if len(uneven) == 1 else "are"
        return f"{' and '.join(uneven)} {verb} not divisible by tensor parallel degree {degree}, and {why}."

    return DegreeRule(lambda degree: not any(size % degree for size in sizes.values()), sentence)
