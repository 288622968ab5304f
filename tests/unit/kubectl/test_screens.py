"""What `kubectl nm` shows of NeuronModels, as text and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubectl.conftest import FakeKubectl, a_model, a_phase, a_start, condition, run, stamp

READY = condition("Ready", "True", "Serving", "1 of 1 workers answer.")
BAD_SOURCE = condition("SourceResolved", "False", "SourceNotFound", "There is no folder nope on the claim models.")
NOT_READY = condition("Ready", "False", "SourceNotFound", "There is no folder nope on the claim models.")
WORKER = {"podName": "smol-1", "node": "plain", "stage": "Serve", "state": "Ready"}
MODELS = "neuronmodels.neuronmodel.dev"


def test_a_list_has_a_line_for_each_with_what_is_wrong(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    good = a_model(conditions=[READY], workers=[WORKER], lastLoad="12.3s", lastCache="Hit")
    bad, unseen = a_model("bad", conditions=[NOT_READY]), a_model("unseen")
    kubectl.has("get", MODELS, answer={"items": [good, bad, unseen]})
    assert run("list") == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    columns = ["NAME", "READY", "REASON", "PROGRESS", "WORKERS", "STRATEGY", "CACHE", "LOAD", "NODE", "AGE"]
    assert heading.split() == columns
    assert lines[0].split() == ["smol", "True", "Serving", "1/1", "Hit", "12.3s", "plain", "60m"]
    assert lines[1].split()[:3] == ["bad", "False", "SourceNotFound"]
    assert "no operator has seen it" in lines[2]
    assert kubectl.calls == [["get", MODELS, "--output=json"]]


def test_what_is_written_into_a_file_is_whole_and_plain(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a-name-of-forty-characters-and-no-less-x"
    kubectl.has("get", MODELS, answer={"items": [a_model(name, conditions=[READY], progress="Sharded " + "9" * 90)]})
    run("list", "-A")
    printed = capsys.readouterr().out
    assert name in printed
    assert "9" * 90 in printed
    assert "\x1b" not in printed
    assert not [line for line in printed.splitlines() if line.endswith(" ")]
    assert kubectl.calls[0][-1] == "--all-namespaces"


def test_of_what_is_wrong_the_cause_is_shown_first_with_its_remedy(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.has_model(a_model(conditions=[NOT_READY, BAD_SOURCE]))
    assert run("status", "smol") == 0
    printed = capsys.readouterr().out
    assert printed.index("SourceNotFound: There is no folder nope") < printed.index("CONDITION")
    assert printed.count("There is no folder nope") == 1
    assert "What to do: " in printed


@pytest.mark.parametrize(
    ("status", "says"),
    [({}, True), ({"observedGeneration": 0, "conditions": [READY]}, True), ({"conditions": [READY]}, False)],
)
def test_a_spec_that_no_operator_has_looked_at_is_said_to_be_one(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], status: dict[str, Any], says: bool
) -> None:
    kubectl.has_model(a_model(**status))
    run("status", "smol")
    assert ("No operator has looked at this spec" in capsys.readouterr().out) is says


@pytest.mark.parametrize("reason", ["Suspended", "ScaledToZero", "Terminating"])
def test_what_the_user_asked_for_is_nothing_to_mend(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    kubectl.has_model(a_model(conditions=[condition("Ready", "False", reason, "As asked.")]))
    run("status", "smol")
    printed = capsys.readouterr().out
    assert "once that is mended" not in printed
    assert "As asked." in printed


def progress(**fields: Any) -> dict[str, Any]:
    return {"stage": "Serve", "phase": "Sharded", "startedAt": stamp(40), "updatedAt": stamp(20), **fields}


def test_the_phase_under_way_has_its_rate_and_the_time_that_is_left(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = WORKER | {"state": "Starting", "progress": progress(bytes=2_000_000_000, totalBytes=8_000_000_000)}
    kubectl.has_model(a_model(conditions=[READY], workers=[worker]))
    run("status", "smol")
    printed = capsys.readouterr().out
    assert "Sharded, for 40.0s, █████                25 % of 8 GB, 100 MB/s, 60.0s left" in printed


def test_a_worker_that_may_be_asked_is_asked_itself(kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]) -> None:
    worker = WORKER | {"state": "Starting", "progress": progress(bytes=1, totalBytes=8_000_000_000)}
    kubectl.has_model(a_model(conditions=[READY], workers=[worker]))
    now = {"phase": "Sharded", "startedAt": stamp(40), "done": 4_000_000_000, "total": 8_000_000_000, "unit": "Bytes"}
    report = {"podUid": "", "specHash": "", "stage": "Serve", "state": "Running", "startedAt": stamp(50)}
    kubectl.has("/api/v1/namespaces/demo/pods/smol-1:9808/proxy/status", answer=report | {"progress": now})
    run("status", "smol", "-o", "json")
    (work,) = json.loads(capsys.readouterr().out)["work"]
    assert (work["phase"], work["done"], work["rate"], work["left_seconds"]) == ("Sharded", 4e9, 1e8, 40)


def test_starts_are_bars_of_one_scale_without_what_they_waited_for_somebody(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = a_start(a_phase("Blocked", 3600, reason="ClaimMissing"), a_phase("Read", 8), a_phase("WarmedUp", 2))
    quick = a_start(a_phase("Read", 4), a_phase("WarmedUp", 1), notes=["SlowerThanUsual: It was slow."])
    kubectl.has_model(a_model(conditions=[READY], starts=[slow, quick]))
    run("status", "smol")
    lines = [line for line in capsys.readouterr().out.splitlines() if "█" in line]
    assert [line.count("█") for line in lines] == [48, 24]
    assert " 10.0s  Ready    began 100s ago  Created" in lines[0]


def test_a_start_that_waits_for_somebody_and_a_worker_that_is_dead_are_not_at_work(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = WORKER | {"state": "Failed", "progress": progress(bytes=1, totalBytes=2)}
    running = a_start(a_phase("Queued", 2), outcome="Running")
    kubectl.has_model(a_model(conditions=[NOT_READY], workers=[worker], starts=[running]))
    run("status", "smol")
    printed = capsys.readouterr().out
    assert "Waiting  began 100s ago" in printed
    assert "last seen in Sharded" in printed
    assert "Sharded, for" not in printed
    assert "It goes on by itself once that is mended" in printed
    run("starts", "smol")
    assert "demo/smol: waiting for 100.0s" in capsys.readouterr().out.replace("1m40s", "100.0s")


def test_of_a_start_that_failed_the_longest_phase_is_not_what_was_wrong(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = a_start(a_phase("Unaccounted", 9), outcome="Failed", reason="WorkerCrashed")
    kubectl.has_model(a_model(conditions=[NOT_READY], starts=[failed]))
    run("starts", "smol")
    printed = capsys.readouterr().out
    assert "failed after 9.0s, Created, WorkerCrashed" in printed
    assert "The longest" not in printed


def test_a_waterfall_begins_each_phase_where_the_one_before_it_ends(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    read = a_phase("Read", 6, bytes=3_000_000_000, bytesPerSecond=500_000_000)
    kubectl.has_model(
        a_model(starts=[a_start(a_phase("Blocked", 60, reason="ClaimMissing"), a_phase("Queued", 2), read)])
    )
    assert run("starts", "smol") == 0
    printed = capsys.readouterr().out
    assert "demo/smol: loaded in 8.0s, Created" in printed
    queued, read_line = (next(line for line in printed.splitlines() if word in line) for word in (" Queued ", " Read "))
    assert queued.rindex("█") + 1 == read_line.index("█")
    assert queued.count("█") * 3 == read_line.count("█")
    assert "3 GB, 500 MB/s" in read_line
    assert "not counted" in next(line for line in printed.splitlines() if "ClaimMissing" in line)
    assert "The longest, Read: " in printed


def test_a_page_has_the_picture_and_nothing_of_the_cluster_is_markup_in_it(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note = "Note: <script>alert(1)</script>"
    kubectl.has_model(a_model(starts=[a_start(a_phase("<b>", 1), a_phase("Read", 3), notes=[note])]))
    assert run("starts", "smol", "--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<rect") == 2
    assert "<script>" not in page
    assert "<b>" not in page
    assert "http" not in page
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}\n"


def test_programs_get_json_of_every_start(kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl.has_model(a_model(starts=[a_start(a_phase("Read", 3)), a_start(a_phase("Read", 2))]))
    run("starts", "smol", "--all", "-o", "json")
    found = json.loads(capsys.readouterr().out)
    assert [start["totalMilliseconds"] for start in found] == [3000, 2000]


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("starts", "smol"), "has not been started yet", 1),
        (("starts", "smol", "2"), "has not been started yet", 1),
        (("status", "nobody"), "forbidden", 1),
        (("status",), "NAME", 2),
        (("nonsense",), "invalid choice", 2),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str, code: int
) -> None:
    kubectl.has_model(a_model())
    assert run(*arguments) == code
    assert says in capsys.readouterr().err


def test_a_start_that_is_not_there_is_named(kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl.has_model(a_model(starts=[a_start(a_phase("Read", 1))]))
    assert run("starts", "smol", "2") == 2
    assert "There is no start 2: smol has 1" in capsys.readouterr().err


def test_without_kubectl_it_says_so(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECTL", "/nowhere/kubectl")
    assert run("list") == 1
    assert "/nowhere/kubectl can't be run: No such file or directory. Install kubectl" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_kubectls_own_options_go_to_kubectl(kubectl: FakeKubectl, before: bool) -> None:
    kubectl.has("get", MODELS, answer={"items": []})
    options = ("-n", "team", "--context", "prod", "--as", "someone")
    run(*(*options, "list") if before else ("list", *options))
    assert kubectl.calls == [["get", MODELS, "--output=json", "--context=prod", "--as=someone", "--namespace", "team"]]


def test_a_status_of_another_version_is_said_to_be_one(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.has_model(a_model(starts=[{"id": 7}]))
    assert run("status", "smol") == 1
    assert "is of another version than this command reads: at starts.0" in capsys.readouterr().err
