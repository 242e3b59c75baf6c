"""The command `seamless`. Each subcommand has a file of its own, imported only when it runs."""

from __future__ import annotations

import os
import sys

USAGE = """\
usage: seamless COMMAND [OPTION...]

commands:
  serve     run the webhook
  plan      show what the webhook would make of manifests, offline
  status    show where the cluster's workloads stand
  backfill  bring existing workloads in, a few at a time
  revert    take everything that was injected out again
  prove     roll a workload under load, and count what failed, and why
  precheck  wait until targets are up (what the init container runs)
  demo-app  an application to try rollouts with
  load      send requests at a constant rate (what prove runs)

seamless COMMAND --help tells more; seamless --version tells the version.
exit status: 0 done, 1 found or failed, 2 wrong use or bad input
"""

_COMMANDS = ("plan", "status", "backfill", "revert", "prove")


def _unless_nobody_reads(command: str, arguments: list[str]) -> int:
    """Run a command whose output may be cut short, by `| head` or by Ctrl-C.

    Its modules are imported here, as that takes long enough for a Ctrl-C to come meanwhile.
    """
    from importlib import import_module

    try:
        status: int = import_module(f"webhook.cli.{command}").main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python would still flush at its end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    # First and bare: an init container's start is on the way of every pod.
    if command == "precheck":
        from webhook import precheck

        return precheck.main(rest)
    if command == "serve":
        from webhook.cli import serve

        return serve.main(rest)
    if command == "demo-app":
        from webhook.demo import app

        return app.main(rest)
    if command == "load":
        from webhook.proof import load

        return load.main(rest)
    if command in _COMMANDS:
        return _unless_nobody_reads(command, rest)
    if command in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return 0
    if command == "--version":
        from webhook import VERSION

        sys.stdout.write(f"seamless {VERSION}\n")
        return 0
    what = f"there is no command {command!r}" if command else "a command is missing"
    sys.stderr.write(f"seamless: {what}; see seamless --help\n")
    return 2
