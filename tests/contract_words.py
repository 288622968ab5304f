"""Where the source of operator and worker uses the words of neuronmodel_api, found in its syntax."""

import ast
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

Words = TypeVar("Words", bound=StrEnum)


def modules(*packages: Path) -> Iterator[ast.Module]:
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            yield ast.parse(path.read_text(), filename=str(path))


def used(words: type[Words], tree: ast.AST) -> set[Words]:
    """Members that are named in it, as `Words.MEMBER`."""
    named = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {words[n.attr] for n in named if ast.unparse(n.value) == words.__name__ and n.attr in words.__members__}


def bare(words: type[StrEnum], tree: ast.AST, inside: str = "") -> Iterator[tuple[str, str]]:
    """Strings that are the word of a member and no member, each with the name of the function, class or constant that
    it stands in. What an enumeration of its own defines, and names of Python, are none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in set(words):
            yield node.value, inside
        elif not _defines(node):
            yield from bare(words, node, _name(node) or inside)


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    target = node.target if isinstance(node, ast.AnnAssign) else None
    return target.id if isinstance(target, ast.Name) else None


def _defines(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base) == "StrEnum" for base in node.bases)
    if isinstance(node, ast.Assign):
        return any(ast.unparse(target) == "__all__" for target in node.targets)
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "TypeVar"
