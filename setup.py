"""What `pyproject.toml` cannot say: the modules that decide can be compiled to machine code.

With `SEAMLESS_COMPILE=1` mypyc compiles them, which halves the time of a decision; it needs a C
compiler and Python's headers. The image does: docs/decisions/0005-compiled-where-it-counts.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from setuptools import setup

# All of it, but for what pydantic and msgspec build their own machine code from at run time, and
# enums, of which there is nothing to compile.
_AS_IT_IS: Final = {"configuration.py", "outcomes.py", "review.py"}
COMPILED: Final = sorted(
    str(path) for path in Path("webhook/decision").rglob("*.py") if path.name not in _AS_IT_IS
)

if os.environ.get("SEAMLESS_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify([*COMPILED], opt_level="3", debug_level="0", group_name="webhook"))
else:
    setup()
