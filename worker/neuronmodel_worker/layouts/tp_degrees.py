"""Which tensor parallel degrees a model fits: what refuses one that it does not, and says which would do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuronmodel_worker.failures import LayoutRefused

# More ranks than any machine of today has; a file each, so that a slip of the pen must not make a billion of them.
MAX_DEGREE = 4096

NUM_NAMED = 12


@dataclass(frozen=True, slots=True)
class DegreeRule:
    """`sentence` says of a degree that does not fit why it doesn't, both numbers included."""

    fits: Callable[[int], bool]
    sentence: Callable[[int], str]


def require_degree(degree: int, rules: Sequence[DegreeRule]) -> None:
    """Raises LayoutRefused: the sentence of the first rule that `degree` offends, and the degrees that fit them all."""
    for rule in rules:
        if not rule.fits(degree):
            fitting = [each for each in range(1, MAX_DEGREE + 1) if all(rule.fits(each) for rule in rules)]
            raise LayoutRefused(f"{rule.sentence(degree)} Degrees that fit: {nearest(fitting, degree)}.")


def nearest(fitting: Sequence[int], degree: int) -> str:
    """The few of `fitting` that are nearest to `degree`."""
    chosen = sorted(sorted(fitting, key=lambda each: abs(each - degree))[:NUM_NAMED])
    return ", ".join(map(str, chosen)) + (", among others" if len(fitting) > NUM_NAMED else "")


def divides(sizes: dict[str, int], why: str) -> DegreeRule:
    """The degree has to divide all `sizes`, as what `why` says is not padded."""

    def sentence(degree: int) -> str:
        uneven = [f"{name} {size}" for name, size in sizes.items() if size % degree]
        verb = "is" if len(uneven) == 1 else "are"
        return f"{' and '.join(uneven)} {verb} not divisible by tensor parallel degree {degree}, and {why}."

    return DegreeRule(lambda degree: not any(size % degree for size in sizes.values()), sentence)
