"""What follows from the runs: ratios with their verdicts, and each contender's figures."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hack.bench.answers import AnswerTimes, Round
from hack.bench.cases import Case, cases
from hack.bench.commands import CommandTimes
from hack.bench.contenders.task import Steps
from hack.bench.rounds import CaseRuns, Run
from hack.bench.statistics import Limit, Ratio, Verdict, fastest, median, paired, ratio_of

GB = 1e9


@dataclass(frozen=True)
class Held:
    """A comparison and what came of it; `against` is the one that counted. Without a limit there is no verdict."""

    case: str
    title: str
    against: str
    ratio: Ratio
    limit: Limit | None
    verdict: Verdict | None
    speedup: bool


@dataclass(frozen=True)
class Figures:
    """Medians of one contender over its runs; the peak is the largest. Processor seconds are for a GB of source;
    `processors_busy` is the share of all processors' time that it took, `disk_busy` the share of time in which the disk
    had something to do. `steps`: where processor seconds went, where that was measured."""

    case: str
    contender: str
    runs: int
    seconds: float
    fastest_seconds: float
    slowest_seconds: float
    gigabytes_a_second: float
    processor_seconds_a_gigabyte: float
    processors_busy: float
    disk_busy: float | None
    process_seconds: float
    peak_anonymous_bytes: int
    memory_limit_bytes: int | None
    processor_seconds_limit: float | None = None
    steps: Steps | None = None

    @property
    def processor_seconds_verdict(self) -> Verdict | None:
        if self.processor_seconds_limit is None:
            return None
        return "met" if self.limited_processor_seconds <= self.processor_seconds_limit else "missed"

    @property
    def limited_processor_seconds(self) -> float:
        """What the limit is of: all of them, or those of the steps where these were measured."""
        return sum(self.steps.values()) if self.steps else self.processor_seconds_a_gigabyte

    @property
    def memory_verdict(self) -> Verdict | None:
        if self.memory_limit_bytes is None:
            return None
        return "met" if self.peak_anonymous_bytes <= self.memory_limit_bytes else "missed"


def comparisons_of(result: CaseRuns) -> Iterator[Held]:
    """Those whose contenders ran in at least one round together."""
    for comparison in result.case.comparisons:
        ours = result.seconds(comparison.contender)
        theirs = {name: seconds for name in comparison.against if (seconds := result.seconds(name))}
        if not ours or not theirs:
            continue
        against = fastest(theirs)
        values = paired(theirs[against], ours) if comparison.speedup else paired(ours, theirs[against])
        if values:
            ratio, limit = ratio_of(values), comparison.limit
            verdict = limit.verdict(ratio) if limit else None
            yield Held(result.case.name, comparison.title, against, ratio, limit, verdict, comparison.speedup)


def figures_of(result: CaseRuns) -> Iterator[Figures]:
    for contender in result.case.contenders:
        if not (runs := result.of(contender.name)):
            continue
        seconds = [run.seconds for run in runs]
        gigabytes = result.source_bytes / GB
        yield Figures(
            case=result.case.name,
            contender=contender.name,
            runs=len(runs),
            seconds=median(seconds),
            fastest_seconds=min(seconds),
            slowest_seconds=max(seconds),
            gigabytes_a_second=gigabytes / median(seconds),
            processor_seconds_a_gigabyte=median([run.processor_seconds for run in runs]) / gigabytes,
            processors_busy=median([run.processor_seconds / run.elapsed for run in runs]) / (os.cpu_count() or 1),
            disk_busy=_median_if_any(
                [run.measured.disk.busy_seconds / run.elapsed for run in runs if run.measured.disk]
            ),
            process_seconds=median([run.measured.process_seconds for run in runs]),
            peak_anonymous_bytes=max(run.measured.peak_anonymous_bytes for run in runs),
            memory_limit_bytes=contender.memory_limit_bytes,
            processor_seconds_limit=contender.processor_seconds_limit,
            steps=_steps([run.measured.timing.steps for run in runs], gigabytes),
        )


def _steps(runs: Sequence[Steps | None], gigabytes: float) -> Steps | None:
    """The median of each step, for a GB of source; None for contenders without steps."""
    measured = [steps for steps in runs if steps]
    names = dict.fromkeys(name for steps in measured for name in steps)
    return {name: median([steps.get(name, 0.0) for steps in measured]) / gigabytes for name in names} or None


def _median_if_any(values: Sequence[float]) -> float | None:
    return median(values) if values else None


@dataclass(frozen=True)
class Results:
    """Everything that was measured, in the order of the report; `machine` is the one that most of it is from. `seconds`
    is what measuring took."""

    machine: Mapping[str, str]
    seconds: float = 0.0
    cases: Sequence[CaseRuns] = ()
    commands: Sequence[CommandTimes] = ()
    answers: AnswerTimes | None = None

    def with_these(self, newer: "Results") -> "Results":
        """What `newer` has takes the place of the same here; the rest stays, and the machine that it is from."""
        found = {each.case.name: each for each in (*self.cases, *newer.cases)}
        order = [name for case in cases() if (name := case.name) in found]
        return Results(
            self.machine,
            self.seconds + newer.seconds,
            [found[name] for name in order],
            newer.commands or self.commands,
            newer.answers or self.answers,
        )


def to_json(results: Results) -> dict[str, Any]:
    """Every single run included."""
    answers = results.answers
    return {
        "machine": dict(results.machine),
        "seconds": round(results.seconds, 1),
        "cases": [
            {
                "name": result.case.name,
                "title": result.case.title,
                "source_bytes": result.source_bytes,
                "machine": dict(result.machine or results.machine),
                "comparisons": [asdict(held) for held in comparisons_of(result)],
                "contenders": [
                    {
                        **asdict(f),
                        "memory_verdict": f.memory_verdict,
                        "processor_seconds_verdict": f.processor_seconds_verdict,
                    }
                    for f in figures_of(result)
                ],
                "runs": [run.to_json() for run in result.runs],
            }
            for result in results.cases
        ],
        "commands": [{**asdict(each), "median": each.median, "verdict": each.verdict} for each in results.commands],
        **({"answers": {**asdict(answers), "ratio": asdict(answers.ratio)}} if answers else {}),
    }


def from_json(data: Mapping[str, Any]) -> Results:
    """Reads what `to_json` wrote, without cases that no longer exist. What follows from the runs is computed again."""
    known = {case.name: case for case in cases()}
    return Results(
        data["machine"],
        data["seconds"],
        [_case(known[case["name"]], case, data["machine"]) for case in data["cases"] if case["name"] in known],
        [_command(command) for command in data["commands"]],
        _answers(data["answers"]) if data.get("answers") else None,
    )


def _case(case: Case, data: Mapping[str, Any], machine: Mapping[str, str]) -> CaseRuns:
    return CaseRuns(
        replace(case, title=data["title"]),
        data["source_bytes"],
        [Run.from_json(run) for run in data["runs"]],
        data.get("machine", machine),
    )


def _command(data: Mapping[str, Any]) -> CommandTimes:
    return CommandTimes(data["title"], data["unit"], tuple(data["seconds"]), data["limit"])


def _answers(data: Mapping[str, Any]) -> AnswerTimes:
    rounds = tuple(
        Round(tuple(each["sealing"]), tuple(each["after"]), each["sealed_bytes"], each["sealed_seconds"])
        for each in data["rounds"]
    )
    return AnswerTimes(data["source_bytes"], rounds, data["machine"])
