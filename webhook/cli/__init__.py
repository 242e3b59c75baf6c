"""The command `seamless`. Each subcommand has a file of its own, imported only when it runs."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # `typing` is slow to import, and a precheck starts here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

USAGE = """\
usage: seamless COMMAND [OPTION...]

commands:
  serve       run the webhook
  plan        show what the webhook would make of manifests, offline
  status      show where the cluster's workloads stand
  backfill    bring existing workloads in, a few at a time
  revert      take everything that was injected out again
  prove       roll a workload under load, and count what failed, and why
  playground  a local page: manifests in, diff, warnings and rollout out
  precheck    wait until targets are up (what the init container runs)
  demo-app    an application to try rollouts with
  load        send requests at a constant rate (what prove runs)

seamless COMMAND --help tells more; seamless --version tells the version.
exit status: 0 done, 1 found or failed, 2 wrong use or bad input
"""

_COMMANDS = ("plan", "status", "backfill", "revert", "prove", "playground")
_MOST_SHOWN = 100  # characters of what is no command
_FAILED, _CUT_SHORT, _INTERRUPTED = 2, 141, 130  # 141 and 130: as a shell tells of the signal


def _guarded(command: str, run: Callable[[], int]) -> int:
    """Run a command; gives its exit status, whatever becomes of it or of its output."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # For machines, whatever the locale; and what cannot be written in it is escaped.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        status = _status(run)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        _drop_output()
        return _CUT_SHORT
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - one line, never a traceback
        if sys.stdout is None and isinstance(error, AttributeError):
            return _fail(command, "standard output is closed")
        if _is_of_output(error):
            _drop_output()
            return _fail(command, f"standard output: {error.strerror}")
        return _fail(command, _unexpected(error))
    return status


def _by_name(command: str, arguments: list[str]) -> int:
    """Import a command and run it: as that takes a while, a Ctrl-C may come meanwhile."""
    from importlib import import_module

    status: int = import_module(f"webhook.cli.{command}").main(arguments)
    return status


def _serve(arguments: list[str]) -> int:
    """Run the webhook. Once it logs, a fault of ours goes to the log, with its stack."""
    import logging

    try:
        return _by_name("serve", arguments)
    except Exception:
        log = logging.getLogger("webhook")
        if not log.handlers:
            raise
        log.exception("unexpected error: the webhook ends")
        return 1


def _is_of_output(error: Exception) -> TypeGuard[OSError]:
    """Tell a full disk behind standard output; files that have a name are dealt with by name."""
    import errno

    of_output = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return isinstance(error, OSError) and error.filename is None and error.errno in of_output


def _status(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as end:  # argparse's way to end a --help
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _drop_output() -> None:
    """Let nothing be written again: what Python would still flush at its end would fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stream of a test is no file
        return


def _unexpected(error: Exception) -> str:
    """Say what a fault of ours was, and where, for whoever mends it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        where = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - pathlib is slow to import
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {what}{where}: a fault of this program, please report it"


def _fail(command: str, text: str) -> int:
    from webhook.cli.common import note

    note(f"seamless {command}".rstrip(), text)
    return _FAILED


def _print(text: str) -> int:
    sys.stdout.write(text)
    return 0


def _itself(command: str) -> int:
    """Do what is asked of the command itself."""
    if command in ("-h", "--help", "help"):
        return _print(USAGE)
    if command == "--version":
        from webhook import VERSION

        return _print(f"seamless {VERSION}\n")
    what = f'there is no command "{command[:_MOST_SHOWN]}"' if command else "a command is missing"
    return _fail("", f"{what}; see seamless --help")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    # First and bare: an init container's start is on the way of every pod.
    if command == "precheck":
        from webhook.precheck import program

        return program.main(rest)
    if command == "serve":
        return _guarded(command, lambda: _serve(rest))
    if command == "demo-app":
        from webhook.demo import app

        return _guarded(command, lambda: app.main(rest))
    if command == "load":
        from webhook.proof import load

        return _guarded(command, lambda: load.main(rest))
    if command in _COMMANDS:
        return _guarded(command, lambda: _by_name(command, rest))
    return _guarded("", lambda: _itself(command))
