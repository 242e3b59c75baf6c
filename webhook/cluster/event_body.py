"""The body of an Event of `events.k8s.io/v1`, as the API server takes it."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Final
from urllib.parse import quote

from webhook.cluster.client import Json

_LONGEST_NOTE: Final = 1024
_LONGEST_NAME: Final = 230  # of 253, and what makes it another takes 17


def events_path(namespace: str) -> str:
    """Give the path of a namespace's Events."""
    return f"/apis/events.k8s.io/v1/namespaces/{quote(namespace, safe='')}/events"


def event_body(
    regarding: Json,
    when: datetime,
    *,
    controller: str,
    instance: str,
    action: str,
    reason: str,
    note: str,
    warning: bool,
) -> Json:
    """Make an Event of a name of its own, by which the API server knows a second try again.

    Args:
        regarding: the reference to the object that it is about.
        when: when it happened.
        controller: who reports it, as a qualified name.
        instance: which one of them.
        action: what was done, in CamelCase.
        reason: why it is reported, in CamelCase.
        note: the text, which is cut at 1,024 characters.
        warning: whether it is one.
    """
    name = f"{regarding['name'][:_LONGEST_NAME]}.{secrets.token_hex(8)}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": regarding["namespace"]},
        "eventTime": micro_time(when),
        "reportingController": controller,
        "reportingInstance": instance,
        "action": action,
        "reason": reason,
        "regarding": regarding,
        "note": note[:_LONGEST_NOTE],
        "type": "Warning" if warning else "Normal",
    }


def micro_time(when: datetime) -> str:
    """Write a moment of UTC as a MicroTime: RFC 3339, with microseconds."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
