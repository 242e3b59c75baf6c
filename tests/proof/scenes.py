"""Builders of pods, failures and loads for tests of proofs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from webhook.proof.failures import Failure, Kind, Pod, Scene
from webhook.proof.verdict import Load


def old(**given: Any) -> Pod:
    """An old pod that was told to go at 10 and has ended at 12."""
    usual = Pod("old", old=True, ready=0.0, terminating=10.0, grace=30.0, stopped=12.0, gone=12.5)
    return replace(usual, **given)


def new(**given: Any) -> Pod:
    """A new pod that became ready at 9."""
    return replace(Pod("new", created=5.0, ready=9.0), **given)


def scene(*pods: Pod, **given: Any) -> Scene:
    """A scene whose clock is exact."""
    return Scene(pods or (old(), new()), slack=0.1, **given)


def fresh(at: float, kind: Kind, took: float = 0.001, **given: Any) -> Failure:
    """A request on a fresh connection that failed."""
    return Failure(at, took, kind, **given)


def kept(at: float, kind: Kind, took: float = 0.001, **given: Any) -> Failure:
    """A request on a kept connection that failed."""
    return Failure(at, took, kind, kept=True, reused=True, connected=True, **given)


def load(seconds: float = 30.0, rate: float = 10.0, *failures: Failure, **given: Any) -> Load:
    """A load that held its rate, and was answered within 0.1 s but for its failures."""
    due = int(seconds * rate)
    at = [number / rate for number in range(due - len(failures))]
    usual = Load(rate, at, [0.1] * len(at), list(failures), seconds=seconds, due=due, sent=due)
    return replace(usual, **given)
