"""Logging: one line per event, as text or JSON; never a whole object, never a secret."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json")
TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"
RETRIES_A_LINE: Final = 60
"""kopf retries a watch every few seconds; one line every few minutes says that it still fails."""

_RETRY: Final = re.compile(r"Request attempt #(\d+)\S* failed; will retry")


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {field: getattr(record, field) for field in ("namespace", "model") if hasattr(record, field)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record is to be logged. Repeated retries of kopf are not: readiness reports what is wrong, and when it
    ends."""
    retry = _RETRY.match(record.getMessage())
    return retry is None or int(retry[1]) % RETRIES_A_LINE == 1


def configure(form: str) -> None:
    """Configures logging. Raises ValueError for a format that is neither text nor json."""
    if form not in FORMATS:
        raise ValueError(f"NEURONMODEL_LOG_FORMAT is {form!r}; it takes text or json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else logging.Formatter(TEXT))
    handler.addFilter(is_news)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # kopf logs every handler that it called; that is one line for every change in the cluster.
    logging.getLogger("kopf").setLevel(logging.WARNING)
