"""What a write of ours that was not answered with yes means: by what the API server, or a webhook behind it, said."""

import re
from typing import Final

from neuronmodel_operator.observed import Refusal
from neuronmodel_operator.phases.step import Verdict, troubled, waits
from neuronmodel_operator.sentences import moment, shortened
from neuronmodel_operator.troubles import Trouble, refusal_reason

MAX_ANSWER: Final = 450
"""Of the API server's words, so that what follows them is there too."""

_NOT_PERMITTED: Final = re.compile(r"\bcannot \w+ resource\b")
"""How the API server's authorizer says that the operator's role lacks a right."""
_OF_THE_SERVER: Final = frozenset({401, 404, 408, 409, 429})
"""Together with 5xx: answers that say nothing about what was asked for."""


def write_trouble(refusal: Refusal) -> Trouble:
    what = f"{refusal.kind} {refusal.name}"
    match _reason(refusal):
        case "NameTaken":
            return Trouble(
                "NameTaken", f"There is a {what} that belongs to somebody else. Delete it or choose a new name."
            )
        case "FormerLeaving" as reason:
            return Trouble(reason, f"{_sentence(refusal)} It is waited for{_since(refusal)}.")
        case "NotPermitted" as reason:
            remedy = " Give the operator's account the rights that its chart gives it."
        case "WebhookFailed" as reason:
            remedy = " Mend the webhook that the message names, or remove its configuration."
        case reason:
            remedy = ""
    done = "deleted" if refusal.verb == "delete" else "written"
    return Trouble(reason, f"The {what} was not {done}: {_sentence(refusal)}{remedy}{_again(refusal)}")


def written(refusal: Refusal) -> Verdict:
    """The verdict of the condition that it stands in the way of."""
    trouble = write_trouble(refusal)
    return waits(trouble.reason, trouble.message) if trouble.reason == "FormerLeaving" else troubled(trouble)


def _reason(refusal: Refusal) -> str:
    message = refusal.message
    if refusal.reason == "NameTaken":
        return "NameTaken"
    if refusal.reason == "Leaving":
        return "FormerLeaving"
    if refusal.status == 0:
        return "NoAnswer"
    if "failed calling webhook" in message:
        return "WebhookFailed"
    if refusal.status == 403 and _NOT_PERMITTED.search(message):
        return "NotPermitted"
    if refusal.status in _OF_THE_SERVER or refusal.status >= 500:
        return "WriteFailed"
    return refusal_reason(message, "WriteRefused")


def _sentence(refusal: Refusal) -> str:
    return f"{shortened(refusal.message, MAX_ANSWER).removesuffix('.')}."


def _since(refusal: Refusal) -> str:
    return f" since {moment(refusal.since)}" if refusal.since else ""


def _again(refusal: Refusal) -> str:
    if refusal.since is None:
        return ""
    return f" So{_since(refusal)}; it is tried again every {refusal.retry_seconds} s."
