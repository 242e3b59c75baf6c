"""One line a record on stderr: text for people, JSON for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

import orjson

FORMATS: Final = ("text", "json")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class _Text(logging.Formatter):
    """Control characters in a stranger's text must not forge lines or move a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in logging
        message = super().formatMessage(record)
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)


def set_up(style: str) -> None:
    """Send the project's log, and what uvicorn warns of, to stderr in one of `FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    text = _Text("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_Json() if style == "json" else text)
    for name, level in (("webhook", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
