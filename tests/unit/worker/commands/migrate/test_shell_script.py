"""What `neuronmodel from-command` understands of a shell's text, compared with a shell; nothing is ever executed."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuronmodel_worker.commands.migrate import shell_tree
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.shell_script import Invocation, read_invocation
from neuronmodel_worker.failures import UsageInvalid

BASH = shutil.which("bash")
SHOWN = ["MINE", "OTHER"]


def arguments(text: str) -> list[str]:
    return [word.text for word in read_invocation(text).arguments]


def of_a_grammar(text: str) -> list[str] | None:
    """None for what the grammar, which is not bash itself, takes for no shell's text."""
    try:
        return arguments(text)
    except NotUnderstood as refused:
        if "The text is no shell's" in str(refused):
            return None
        raise


def texts_of(invocation: Invocation) -> list[str]:
    """Everything that somebody may need of it. Raises NotUnderstood."""
    values = (*invocation.arguments, *invocation.environment.values(), *invocation.unexported.values())
    return [each.text for each in values]


def of_a_shell(folder: Path, text: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables that a real one would give."""
    program = folder / "inference_demo"
    program.write_text("#!/bin/bash\nprintf '%s\\0' \"$@\" > arguments; printenv -0 MINE OTHER > environment; exit 0\n")
    program.chmod(0o755)
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run([BASH or "bash", "-c", f"{text}\nwait"], cwd=folder, env=variables, check=True, capture_output=True)
    found = (folder / "environment").read_bytes()
    exported = read_invocation(text).environment
    values = [value.decode() for value in found.split(b"\0")[:-1]]
    return (
        [each.decode() for each in (folder / "arguments").read_bytes().split(b"\0")[:-1]],
        dict(zip([name for name in SHOWN if name in exported], values, strict=True)),
    )


TEXTS = [
    "inference_demo a b",
    "inference_demo \\\n  a \\\n  b",
    "inference_demo 'a b' \"c  d\" e\\ f",
    "A=1\nB=$A$A\ninference_demo $A ${B} \"$B\" '$B'",
    "N=128\nL=2\nexport MINE=$((N / L - 3 * (2 + -1) % 2))\ninference_demo $MINE",
    "F='--a 1  --b'\ninference_demo $F \"$F\" x$F",
    'E=\ninference_demo $E "$E" a',
    "inference_demo a # a comment 'with quotes\n",
    "#!/bin/bash\n# comment\nset -euxo pipefail\ninference_demo a#b c",
    "MINE=1 OTHER='x y' inference_demo a",
    "export MINE=1 OTHER\nOTHER=2\ninference_demo a",
    "export MINE=1; unset MINE; inference_demo a && echo done",
    'inference_demo --prompt "What\'s \\"this\\"? \\$5 \\\\ \\x" 2>&1 | tee log',
    "inference_demo a > log 2>&1 &",
    "inference_demo a |& tee log",
    "inference_demo a &>> log",
    "env MINE=3 inference_demo a",
    "A=x; inference_demo \"${A}y\"$A'z'",
    "inference_demo a\\\nb \"c\\\nd\" 'e\\\nf'",
    "mkdir -p out; cd out; cd ..; inference_demo $((7/2)) $((-7/2)) $((-7%3)) $((2-3-4))",
    "A=5; inference_demo $(( $A * ${A} + A ))",
    "inference_demo $ a$",
    "inference_demo ''",
    "time inference_demo a",
    'inference_demo ${B:-c} "${B:-c d}" ${B:=5} $B',
    'A=; inference_demo "${A:-x}" "${A-y}"',
    'X=1; inference_demo ${Y:-$X/z} "${Y:-$X z}"',
    "inference_demo > log a b",
    "[ -d x ] && echo y; if [ -d x ]; then mkdir z; fi; inference_demo a",
    "inference_demo a \\\n",
    "A=1\r\ninference_demo $A\r\n".replace("\r", ""),
]


@pytest.mark.skipif(BASH is None, reason="there is no bash to compare with")
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_what_it_means_to_a_shell(tmp_path: Path, text: str) -> None:
    invocation = read_invocation(text)
    found = {name: word.text for name, word in invocation.environment.items() if name in SHOWN}
    assert ([word.text for word in invocation.arguments], found) == of_a_shell(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "no inference_demo command"),
        ("A=1\n", 2, "no inference_demo command"),
        ("inference_demo $A", 1, "A has no value"),
        ("\ninference_demo $(date)", 2, "nothing is executed"),
        ("inference_demo `date`", 1, "nothing is executed"),
        ("A=`date`\ninference_demo", 1, "nothing is executed"),
        ("inference_demo \"\n'", 1, "ends the quotation"),
        ("inference_demo 'a\n", 1, "ends the quotation"),
        ("inference_demo *.json", 1, "stands for names"),
        ("inference_demo {a,b}", 1, "stands for names"),
        ("A='*'\ninference_demo $A", 2, "a pattern"),
        ("A=(1 2)\ninference_demo", 1, "An array is not followed"),
        ("inference_demo ~/models", 1, "a folder that only a shell knows"),
        ("A=~/models\ninference_demo", 1, "a folder that only a shell knows"),
        ("A=1\n\nfor i in 1 2; do inference_demo; done\n", 3, "for is not followed"),
        ("if true; then inference_demo; fi", 1, "if is not followed"),
        ("(inference_demo)", 1, "in parentheses is not followed"),
        ("inference_demo || true", 1, "|| is not understood"),
        ("inference_demo < file", 1, "a here-document"),
        ("inference_demo <<EOF\nEOF", 1, "a here-document"),
        ("inference_demo | grep x", 1, "hands the output to"),
        ("inference_demo | teeth x", 1, "hands the output to"),
        ("A=1\nfor A in 2 3; do echo $A; done\ninference_demo $A", 2, "for is not followed"),
        ("A=1\nif true; then printf -v A 2; fi\ninference_demo $A", 2, "if is not followed"),
        ("A=1\nif true; then echo $((A++)); fi\ninference_demo $A", 2, "if is not followed"),
        ("A=1\nif true; then ((A=2)); fi\ninference_demo $A", 2, "if is not followed"),
        ("A=1\nif true; then : ${B:=2}; fi\ninference_demo $A", 2, "if is not followed"),
        ("printf -v A 2\ninference_demo", 1, "'printf'"),
        ("cat x | inference_demo", 1, "hands the output to"),
        ("inference_demo >", 1, "no shell's"),
        ("inference_demo |", 1, "no shell's"),
        ("inference_demo > | tee", 1, "no shell's"),
        ("inference_demo\ninference_demo", 2, "another inference_demo"),
        ("source settings.sh\ninference_demo", 1, "'source'"),
        ("set -a\ninference_demo", 1, "'set'"),
        ("eval inference_demo", 1, "eval is another shell"),
        ("A+=1\ninference_demo", 1, "A+= is not understood"),
        ("inference_demo $1", 1, "$1 is not understood"),
        ("inference_demo $'a'", 1, "is not understood"),
        ("inference_demo ${A:+1}", 1, "only ${NAME}, ${NAME:-text} and"),
        ("inference_demo ${A", 1, "no shell's"),
        ("inference_demo $((1 + ))", 1, "no shell's"),
        ("inference_demo $((1 << 2))", 1, "is not understood"),
        ("inference_demo $((1 / 0))", 1, "divides by 0"),
        ("inference_demo $((010))", 1, "is octal"),
        ("inference_demo $((1", 1, "no shell's"),
        ("inference_demo $((9223372036854775807 + 1))", 1, "more than a shell"),
        ("A=x\ninference_demo $((A + 1))", 2, "no integer"),
        ("inference_demo $((" + "(" * 99 + "1" + ")" * 99 + "))", 1, "is not understood"),
        ("export -f x\ninference_demo", 1, "export is understood with NAME"),
        ("python3 -m vllm.entrypoints.openai.api_server", 1, "'python3'"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(NotUnderstood) as refused:
        texts_of(read_invocation(text))
    assert str(refused.value).startswith(f"Line {line}: ")
    assert what in str(refused.value)


@pytest.mark.parametrize(
    "command",
    [
        "inference_demo",
        "/opt/venv/bin/inference_demo",
        "python inference_demo.py",
        "python3.11 -u src/inference_demo.py",
        "nohup python3 -m neuronx_distributed_inference.inference_demo",
        "source /opt/venv/bin/activate && inference_demo",
    ],
)
def test_the_command_goes_by_several_names(command: str) -> None:
    assert arguments(f"{command} run x") == ["run", "x"]


def test_arguments_know_their_lines() -> None:
    invocation = read_invocation("A=1\n\ninference_demo a \\\n  $A \\\n  'b\nc'\n")
    assert [(word.text, word.line) for word in invocation.arguments] == [("a", 3), ("1", 4), ("b\nc", 5)]


def test_a_text_of_another_system_is_read_alike() -> None:
    assert arguments("A=1\r\ninference_demo $A \\\r\n b\r\n") == ["1", "b"]


def test_no_variable_of_this_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/models")
    with pytest.raises(NotUnderstood, match="MODELS has no value"):
        texts_of(read_invocation("inference_demo $MODELS"))


# Harmless to a shell in any order.
FRAGMENTS = [
    ".", "-b", "=", ",", "%#", "'c  d'", "'#$A'", '"e f"', '"$A"', "$A", "${B}", '"x${B}y"', "$B$A", "\\ ", "\\$A",
    "\\\n", '"\\""', '"\\$A\\\\"', "''", '""', "$((N*2-7/2))", '"$(( -N % 3 ))"', " ", "  ", "\t", "+", "%", "@", ":",
    "\\\\", "'\\'", '"\\q"',
]  # fmt: skip


@pytest.mark.skipif(BASH is None, reason="there is no bash to compare with")
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.lists(st.sampled_from([each for each in FRAGMENTS if each.strip()]), max_size=4).map("".join),
)
@settings(max_examples=60, deadline=None)
def test_quotes_and_variables_mean_what_they_mean_to_a_shell(text: str, value: str) -> None:
    script = f"A='1 2'; B=; N=5; B=:{value}\ninference_demo . {text}\n"
    function = "inference_demo() { printf '%s\\0' \"$@\"; }"
    ended = subprocess.run([BASH or "bash", "-c", f"{function}\n{script}"], check=True, capture_output=True)
    assert of_a_grammar(script) in (None, ended.stdout.decode().split("\0")[:-1])


@given(
    st.text(
        st.sampled_from("ab1 \n\t'\"\\$`{}()#=&|<>;*~!/-+%") | st.characters(exclude_categories=["Cs"]), max_size=60
    )
)
@settings(max_examples=400, deadline=None)
@example(text=">\r")
def test_any_text_is_understood_or_refused_with_a_line(text: str) -> None:
    with suppress(NotUnderstood):
        assert isinstance(texts_of(read_invocation(f"inference_demo {text}")), list)


@pytest.mark.parametrize(
    "text",
    [
        "true && " * 20_000 + "inference_demo",
        "true || " * 20_000 + "true",
        "(" * 5000,
        "{ " * 5000,
        "if true; then " * 3000,
    ],
    ids=["and", "or", "parentheses", "braces", "if"],
)
def test_what_is_long_or_deep_is_understood_or_refused(text: str) -> None:
    with suppress(NotUnderstood):
        read_invocation(text)


def test_without_the_parser_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    shell_tree._parser.cache_clear()
    with pytest.raises(UsageInvalid, match="Install the extra `migrate`"):
        read_invocation("inference_demo")


def test_characters_beyond_ascii_are_parts_of_words() -> None:
    assert arguments("inference_demo \u6771\u4eac 'caf\u00e9 \U0001f642' x\u0300y # \u30b3\n") == [
        "\u6771\u4eac", "caf\u00e9 \U0001f642", "x\u0300y"
    ]  # fmt: skip
