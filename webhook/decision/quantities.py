"""Amounts of CPU and memory, as Kubernetes writes them.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final

_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40}))([eE][+-]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def amount(quantity: Any) -> Decimal | None:
    """Give the amount of a quantity such as `100m` or `64Mi`; nothing where it is none."""
    if type(quantity) is int:
        return Decimal(quantity)
    found = _QUANTITY.fullmatch(quantity) if isinstance(quantity, str) else None
    if found is None:
        return None
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix.endswith("i"):
        return number * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    return number.scaleb(_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:] or 0))


def at_most(wanted: str, most: Decimal, resource: str) -> str:
    """Give a quantity, or the most that is allowed of a resource if that is less, never below 0."""
    asked = amount(wanted)
    if asked is None or asked <= most:
        return wanted
    most = max(most, Decimal(0))
    if resource == "cpu":  # in thousandths of a core, as the API server writes it
        return f"{int((most * 1000).to_integral_value(ROUND_FLOOR))}m"
    return str(int(most.to_integral_value(ROUND_FLOOR)))


_CPU: Final = re.compile(r"([0-9]{1,6})(?:m|\.([0-9]{1,3}))?")
_MEMORY: Final = re.compile(r"[1-9][0-9]{0,11}(?:[kMGT]|[KMGT]i)?")
_LEAST_MEMORY: Final = 2**20  # bytes; no runtime starts a container in less


def checked(cpu_and_memory: str) -> str:
    """Give an amount of CPU and one of memory, such as `100m/64Mi`, as they are if they are good.

    Raises:
        ValueError: saying what is expected.
    """
    cpu, _, memory = cpu_and_memory.partition("/")
    cores = _CPU.fullmatch(cpu)
    if not cores or not int(cores[1] + (cores[2] or "")) or not _MEMORY.fullmatch(memory):
        message = "expected CPU/memory, such as 100m/64Mi: cores or thousandths (m), and bytes"
        raise ValueError(message)
    if (amount(memory) or 0) < _LEAST_MEMORY:
        message = "expected at least 1Mi of memory, such as 100m/64Mi"
        raise ValueError(message)
    return cpu_and_memory
