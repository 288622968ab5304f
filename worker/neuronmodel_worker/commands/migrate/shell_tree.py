"""The structure of a shell's text, by tree-sitter's grammar of bash: which commands there are, and their words.

The grammar is made for editors. It goes on after an error, so a tree with one is refused; and it may end a word too
early or leave out an escaped blank, so the words of a command are read by `shell_words`.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_words import CONTINUES, Word, words_of
from neuronmodel_worker.failures import UsageInvalid

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

OTHER_BYTES = re.compile(rb"[^\t\n -~]")
"""To a shell they are parts of words; the grammar's scanner reads beyond its tables for some, and ends the process."""


class ShellTree:
    def __init__(self, text: str) -> None:
        """Raises NotUnderstood for a text that is no shell's, and UsageInvalid where there is no parser."""
        self.text = text
        self._source = self.text.encode("utf-8", "surrogatepass")
        self._tree = _parser().parse(OTHER_BYTES.sub(b"x", self._source))
        self.root = self._tree.root_node
        if self.root.has_error:
            raise self._error()

    def written(self, node: "Node") -> str:
        return self._text(node.start_byte, node.end_byte)

    def words(self, node: "Node", skip: int = 0) -> list[Word]:
        """The words from a node up to what follows it, without the first `skip` bytes. Raises NotUnderstood."""
        stop = _start_of_next(node)
        text = self._text(node.start_byte + skip, len(self._source) if stop is None else stop)
        return words_of(text, line_of(node))

    def statements(self, node: "Node") -> Iterator["Node"]:
        """Its commands, and what separates them."""
        stop = 0
        for child in node.children:
            # Without a newline between them the grammar took one command for two.
            is_statement = child.is_named and child.type != "comment"
            if is_statement and stop and "\n" not in self._text(stop, child.start_byte).replace(CONTINUES, ""):
                raise NotUnderstood(line_of(child), f"{self.written(child)[:40]!r} is not understood here.")
            yield child
            stop = child.end_byte if is_statement and not self.written(child).endswith("\n") else 0

    def _text(self, start: int, stop: int) -> str:
        return self._source[start:stop].decode("utf-8", "surrogatepass")

    def _error(self) -> NotUnderstood:
        """About the first place that the grammar does not know."""
        found = next(each for each in within(self.root) if each.is_error or each.is_missing)
        line, shown = line_of(found), self.written(found).strip().partition("\n")[0][:40]
        if found.is_missing:
            return NotUnderstood(line, f"The text is no shell's here: {found.type} is missing.")
        for quote in "'\"":
            if self.text.count(quote) % 2:
                return NotUnderstood(line, f"A {quote} has no other one that ends the quotation.")
        return NotUnderstood(line, f"The text is no shell's from {shown!r} on. Correct it, or leave it out.")


def line_of(node: "Node") -> int:
    return int(node.start_point[0]) + 1


def _start_of_next(node: "Node") -> int | None:
    while node.next_sibling is None:
        if node.parent is None:
            return None
        node = node.parent
    return int(node.next_sibling.start_byte)


def within(node: "Node") -> Iterator["Node"]:
    """The node and all below it, in their order."""
    nodes = [node]
    while nodes:
        yield (each := nodes.pop())
        nodes.extend(reversed(each.children))


@cache
def _parser() -> "Parser":
    try:
        import tree_sitter  # on hosts that convert no command it need not be there
        import tree_sitter_bash
    except ImportError as error:
        raise UsageInvalid(
            "A shell's text is read with tree-sitter and tree-sitter-bash, which are not installed. Install the extra "
            "`migrate`, or let your shell expand the command: neuronmodel from-command -- inference_demo …"
        ) from error
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))
