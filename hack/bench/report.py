"""The tables, as Markdown: read on a terminal and put into docs/performance.md."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hack.bench.answers import NAME as ANSWERS
from hack.bench.answers import AnswerTimes
from hack.bench.commands import NAME, CommandTimes
from hack.bench.failures import BenchFailed
from hack.bench.results import Figures, Held, Results, comparisons_of, figures_of

BEGIN = "<!-- what `make bench` measured; written by it -->"
END = "<!-- end of what `make bench` measured -->"


def report(results: Results) -> str:
    """Everything between the markers."""
    held = [each for result in results.cases for each in comparisons_of(result)]
    figures = [each for result in results.cases for each in figures_of(result)]
    about = [f"- {key}: {value}" for key, value in results.machine.items()]
    table = limits_table(held, figures, results.commands, results.answers)
    parts = ["\n".join(_titles(results)), table, figures_table(figures), steps_table(figures), "\n".join(about)]
    return "\n\n".join(part for part in parts if part)


def _titles(results: Results) -> Iterator[str]:
    for result in results.cases:
        title = f"{result.case.title}, {result.source_bytes / 1e9:.1f} GB"
        yield f"- `{result.case.name}`: {title}{_elsewhere(result.machine, results.machine)}"
    if results.answers:
        yield f"- `{ANSWERS}`: {results.answers.title}{_elsewhere(results.answers.machine, results.machine)}"


def _elsewhere(machine: Mapping[str, str], usual: Mapping[str, str]) -> str:
    """How the machine that measured it differs from the usual one."""
    differing = [f"{name} {value}" for name, value in machine.items() if value != usual.get(name)]
    return f" ({', '.join(differing)})" if differing else ""


def limits_table(
    held: Sequence[Held],
    figures: Sequence[Figures],
    commands: Sequence[CommandTimes],
    answers: AnswerTimes | None = None,
) -> str:
    rows: list[tuple[str, ...]] = [("case", "what", "median", "95 % interval", "rounds", "limit", "")]
    rows += [_held(each) for each in held]
    rows += [_answers(answers)] if answers else []
    rows += [_processor_seconds(each) for each in figures if each.processor_seconds_limit]
    rows += [_memory(each) for each in figures if each.memory_limit_bytes]
    rows += [_command(each) for each in commands]
    return markdown(rows, left=(0, 1, 5, 6))


def _held(held: Held) -> tuple[str, ...]:
    ratio, times = held.ratio, " ×" if held.speedup else ""
    against = f" ({held.against})" if "raw read" in held.against else ""
    return (
        held.case,
        f"{held.title}{against}",
        f"{ratio.median:.2f}{times}",
        f"{ratio.low:.2f} – {ratio.high:.2f}",
        str(ratio.rounds),
        str(held.limit or ""),
        held.verdict or "",
    )


def _answers(answers: AnswerTimes) -> tuple[str, ...]:
    ratio, what = answers.ratio, "an answer while shards are sealed behind, against one afterwards"
    interval = f"{ratio.low:.2f} – {ratio.high:.2f}"
    return ANSWERS, what, f"{ratio.median:.2f}", interval, str(ratio.rounds), "", ""


def _processor_seconds(figures: Figures) -> tuple[str, ...]:
    assert figures.processor_seconds_limit is not None
    return (
        figures.case,
        f"processor seconds a GB, {', '.join([figures.contender, *(figures.steps or ())])}",
        f"{figures.limited_processor_seconds:.2g}",
        "",
        str(figures.runs),
        f"at most {figures.processor_seconds_limit:g}",
        figures.processor_seconds_verdict or "",
    )


def _memory(figures: Figures) -> tuple[str, ...]:
    assert figures.memory_limit_bytes is not None
    return (
        figures.case,
        f"peak anonymous memory, {figures.contender}",
        _gib(figures.peak_anonymous_bytes),
        "",
        str(figures.runs),
        f"at most {_gib(figures.memory_limit_bytes)}",
        figures.memory_verdict or "",
    )


def _command(times: CommandTimes) -> tuple[str, ...]:
    return (
        NAME,
        times.title,
        f"{times.median:.2f} {times.unit}",
        f"up to {max(times.seconds):.2f}",
        str(len(times.seconds)),
        f"under {times.limit:g} {times.unit}",
        times.verdict,
    )


def figures_table(figures: Sequence[Figures]) -> str:
    """Empty without figures."""
    if not figures:
        return ""
    head = (
        "case",
        "contender",
        "seconds",
        "from – to",
        "GB/s",
        "CPU s a GB",
        "CPUs busy",
        "disk busy",
        "anonymous memory",
        "runs",
    )
    rows: list[tuple[str, ...]] = [head]
    rows += [
        (
            each.case,
            each.contender,
            f"{each.seconds:.2f}",
            f"{each.fastest_seconds:.2f} – {each.slowest_seconds:.2f}",
            f"{each.gigabytes_a_second:.2f}",
            f"{each.processor_seconds_a_gigabyte:.2f}",
            _percent(each.processors_busy),
            _percent(each.disk_busy),
            _gib(each.peak_anonymous_bytes),
            str(each.runs),
        )
        for each in figures
    ]
    return markdown(rows, left=(0, 1))


def steps_table(figures: Sequence[Figures]) -> str:
    """Where the processor seconds went, for a GB of source. Empty where nobody measured it."""
    stepped = [each for each in figures if each.steps]
    if not stepped:
        return ""
    names = list(dict.fromkeys(name for each in stepped for name in each.steps or ()))
    names.sort(key=lambda name: -max((each.steps or {}).get(name, 0.0) for each in stepped))
    rows: list[tuple[str, ...]] = [("case", "processor seconds a GB", *names, "all")]
    for each in stepped:
        steps = each.steps or {}
        cells = (f"{steps[name]:.2f}" if name in steps else "" for name in names)
        rows.append((each.case, each.contender, *cells, f"{sum(steps.values()):.2f}"))
    return markdown(rows, left=(0, 1))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


def markdown(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> str:
    """A table whose first row is its head, aligned in the source too."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = [("-" * width if i in left else "-" * (width - 1) + ":") for i, width in enumerate(widths)]

    def line(cells: Iterable[str]) -> str:
        aligned = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def put_between_markers(page: Path, text: str) -> None:
    """Raises BenchFailed when the page has not each marker once."""
    content = page.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise BenchFailed(
            f"{page} has not the lines {BEGIN!r} and {END!r} once each and in this order: put them there."
        )
    before, rest = content.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
