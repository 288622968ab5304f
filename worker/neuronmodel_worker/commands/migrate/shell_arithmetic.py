"""The shell's `$((…))`, limited to integers, variables, + - * / % and parentheses."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood

LARGEST: Final = (1 << 63) - 1
"""The largest integer of a shell. Beyond it the shell wraps around silently, which nobody intends."""
MAX_DEPTH: Final = 64
"""The limit of nested parentheses and signs."""

TOKEN = re.compile(r"\s*(?:(\d+)|\$\{([A-Za-z_]\w*)\}|\$?([A-Za-z_]\w*)|([-+*/%()]))", re.ASCII)
INTEGER = re.compile(r"\s*([-+]?)(0|[1-9]\d*)\s*", re.ASCII)

Lookup = Callable[[str, int], str]
"""Returns the value of a variable that a line uses; raises NotUnderstood."""


def evaluate(expression: str, lookup: Lookup, line: int) -> int:
    """Raises NotUnderstood."""
    computation = _Computation(expression, lookup, line)
    value = computation.sum()
    if computation.tokens:
        raise computation.not_understood()
    return value


class _Computation:
    def __init__(self, expression: str, lookup: Lookup, line: int) -> None:
        self._expression = expression
        self._lookup = lookup
        self._line = line
        self._depth = 0
        self.tokens = self._tokens()

    def not_understood(self) -> NotUnderstood:
        return NotUnderstood(
            self._line,
            f"$(({self._expression})) is not understood: only integers, variables, + - * / % and parentheses are. "
            "Write its value there.",
        )

    def _tokens(self) -> list[str]:
        tokens, at, text = [], 0, self._expression.rstrip()
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                raise self.not_understood()
            number, braced, name, sign = match.groups()
            tokens.append(sign or (str(self._integer(number)) if number else str(self._variable(braced or name))))
            at = match.end()
        return tokens

    def _variable(self, name: str) -> int:
        value = self._lookup(name, self._line)
        if not INTEGER.fullmatch(value):
            raise NotUnderstood(
                self._line, f"{name} is {value!r} and no integer, and $(({self._expression})) computes with it."
            )
        return self._within(int(value))

    def _integer(self, digits: str) -> int:
        if not INTEGER.fullmatch(digits):
            raise NotUnderstood(
                self._line, f"{digits} in $(({self._expression})) is octal for a shell. Write the number without the 0."
            )
        return self._within(int(digits) if len(digits) < 20 else LARGEST + 1)

    def _within(self, value: int) -> int:
        if abs(value) > LARGEST:
            raise NotUnderstood(self._line, f"$(({self._expression})) is more than a shell can compute with.")
        return value

    def sum(self) -> int:
        value = self._product()
        while self.tokens and self.tokens[0] in ("+", "-"):
            sign, right = self.tokens.pop(0), self._product()
            value = self._within(value + right if sign == "+" else value - right)
        return value

    def _product(self) -> int:
        value = self._factor()
        while self.tokens and self.tokens[0] in ("*", "/", "%"):
            sign, right = self.tokens.pop(0), self._factor()
            if sign != "*" and right == 0:
                raise NotUnderstood(self._line, f"$(({self._expression})) divides by 0.")
            value = self._within(_PRODUCTS[sign](value, right))
        return value

    def _factor(self) -> int:
        self._depth += 1
        if not self.tokens or self._depth > MAX_DEPTH:
            raise self.not_understood()
        first = self.tokens.pop(0)
        if first == "(":
            value = self.sum()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise self.not_understood()
        elif first in ("+", "-"):
            value = self._factor() if first == "+" else -self._factor()
        elif INTEGER.fullmatch(first):
            value = int(first)
        else:
            raise self.not_understood()
        self._depth -= 1
        return value


def _quotient(left: int, right: int) -> int:
    """Rounds towards zero, as C does."""
    magnitude = abs(left) // abs(right)
    return magnitude if (left < 0) == (right < 0) else -magnitude


_PRODUCTS: Mapping[str, Callable[[int, int], int]] = {
    "*": lambda left, right: left * right,
    "/": _quotient,
    "%": lambda left, right: left - right * _quotient(left, right),
}
