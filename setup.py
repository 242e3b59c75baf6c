"""What `pyproject.toml` cannot say: the modules that decide can be compiled to machine code.

With `SEAMLESS_COMPILE=1` mypyc compiles them, which halves the time of a decision; it needs a C
compiler and Python's headers. The image does: docs/decisions/0005-compiled-where-it-counts.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from setuptools import setup

COMPILED: Final = (
    "webhook/admission.py",
    "webhook/alerts.py",
    "webhook/draft.py",
    "webhook/estimate.py",
    "webhook/exclusions.py",
    "webhook/ledger.py",
    "webhook/quantities.py",
    "webhook/settings.py",
    "webhook/undecoded.py",
    "webhook/workload.py",
    *sorted(map(str, Path("webhook/mutations").glob("*.py"))),
)

if os.environ.get("SEAMLESS_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify([*COMPILED], opt_level="3", debug_level="0", group_name="webhook"))
else:
    setup()
