"""Ask PyPI whether a locked package has a known vulnerability, and say what was not answered.

    python scripts/audit.py PIP-AUDIT [--must-answer] [REQUIREMENTS ...]

Exit status: 0 nothing is known, or, as it says then, nobody could be asked; 1 a vulnerability is
known; with `--must-answer` also where a package was not answered for; 2 there is no lock file.

Without REQUIREMENTS every lock file is asked about: what builds and tests the image can change it.

A package that the service does not know is passed over by pip-audit, which then finds "no known
vulnerabilities": behind a mirror without that service this would be said of every package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from webhook.decision.printable import printable

LOCKS = Path(__file__).resolve().parents[1] / "requirements"
_SECONDS = 300


def main(arguments: list[str]) -> int:
    """Ask, tell, and give the exit status."""
    must_answer = "--must-answer" in arguments
    program, *files = [each for each in arguments if not each.startswith("-")]
    status = 0
    files = files or [str(path) for path in sorted(LOCKS.glob("*.txt"))]
    if not files:
        sys.stderr.write(f"{LOCKS}: expected lock files, *.txt\n")
        return 2
    for path in files:
        found = ask(program, path)
        lines, vulnerable, unanswered = tell(path, found)
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
        if vulnerable or (unanswered and must_answer):
            status = 1
    return status


def ask(program: str, path: str) -> list[dict[str, Any]] | None:
    """Ask about every package of a file; none where nobody answers."""
    command = [program, "--require-hashes", "--disable-pip", "--progress-spinner=off"]
    try:
        done = subprocess.run(  # noqa: S603 - the program that make installed
            [*command, "--format=json", f"--requirement={path}"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"pip-audit: {printable(str(error), 300)}\n")
        return None
    except (json.JSONDecodeError, KeyError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        sys.stderr.write(f"pip-audit: {printable(last[0], 300)}\n")
        return None
    return found


def tell(path: str, found: list[dict[str, Any]] | None) -> tuple[list[str], bool, bool]:
    """Put an answer into words; tell whether something is vulnerable, or was not answered for."""
    if not found:
        return [f"{path}: not audited: no vulnerability service in reach"], False, True
    skipped = [each["name"] for each in found if "skip_reason" in each]
    answered = len(found) - len(skipped)
    lines = [
        f"{path}: {each['name']} {each['version']}: {known['id']}, mended in "
        f"{', '.join(known['fix_versions']) or 'no version yet'}"
        for each in found
        for known in each.get("vulns", [])
    ]
    vulnerable = bool(lines)
    if not answered:
        lines = [f"{path}: not audited: the service knows none of the {len(found)} packages"]
    else:
        what = "of these, the above" if vulnerable else "no vulnerability is known"
        lines.append(f"{path}: {answered} of {len(found)} packages audited: {what}")
        lines += [f"{path}: not answered for: {', '.join(skipped)}"] if skipped else []
    return lines, vulnerable, bool(skipped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
