"""What a failed write means, judged by the answer of the API server or of a webhook behind it."""

import re
from typing import Final

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.failures import Problem, refusal_reason
from neuronmodel_operator.state.observed import Refusal
from neuronmodel_operator.wording import moment, sentence

MAX_ANSWER: Final = 450
"""The most characters of the API server's message that are quoted, so that the text after it still fits."""

_NOT_PERMITTED: Final = re.compile(r"\bcannot \w+ resource\b")
"""The wording by which the API server's authorizer reports a missing permission."""


def write_problem(refusal: Refusal) -> Problem:
    what = f"{refusal.kind} {refusal.name}"
    match _reason(refusal):
        case Reason.NAME_TAKEN:
            return Problem(
                Reason.NAME_TAKEN, f"There is a {what} that belongs to somebody else. Delete it or choose a new name."
            )
        case Reason.FORMER_LEAVING as reason:
            message = f"{sentence(refusal.message, MAX_ANSWER)} It is waited for{_since_text(refusal)}."
            return Problem(reason, message, passes=True)
        case Reason.NOT_PERMITTED as reason:
            remedy = " Give the operator's account the rights that its chart gives it."
        case Reason.WEBHOOK_FAILED as reason:
            remedy = " Mend the webhook that the message names, or remove its configuration."
        case reason:
            remedy = ""
    done, answer = "deleted" if refusal.verb == "delete" else "written", sentence(refusal.message, MAX_ANSWER)
    return Problem(reason, f"The {what} was not {done}: {answer}{remedy}{_retry_text(refusal)}")


def _reason(refusal: Refusal) -> Reason:
    message = refusal.message
    if refusal.reason == Reason.NAME_TAKEN:
        return Reason.NAME_TAKEN
    if refusal.reason == "Leaving":
        return Reason.FORMER_LEAVING
    if refusal.status == 0:
        return Reason.NO_ANSWER
    if "failed calling webhook" in message:
        return Reason.WEBHOOK_FAILED
    if refusal.status == 403 and _NOT_PERMITTED.search(message):
        return Reason.NOT_PERMITTED
    if refusal.is_of_the_server:
        return Reason.WRITE_FAILED
    return refusal_reason(message, Reason.WRITE_REFUSED)


def _since_text(refusal: Refusal) -> str:
    return f" since {moment(refusal.since)}" if refusal.since else ""


def _retry_text(refusal: Refusal) -> str:
    if refusal.since is None:
        return ""
    return f" So{_since_text(refusal)}; it is tried again every {refusal.retry_seconds} s."
