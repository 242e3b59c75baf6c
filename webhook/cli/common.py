"""What the subcommands share: one line for an error, and reading files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from webhook.config import Configuration, ConfigurationError
from webhook.config import load as load_configuration


class UsageError(Exception):
    """Wrong use or bad input: one line on stderr, exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no option by half its name.

    With `--app` for `--apply`, a slip would do what was to be looked at.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(allow_abbrev=False, **given)

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError`."""
        text = f"{message}; see {self.prog} --help"
        raise UsageError(text)


def which_workloads(parser: Parser) -> None:
    """Add the options that say which workloads of a cluster are meant."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="of one namespace (the kubeconfig's)"
    )
    where.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    parser.add_argument("-l", "--selector", help="only workloads with these labels")


def which_cluster(parser: Parser) -> None:
    """Add the options that say which cluster, and which webhook in it."""
    parser.add_argument(
        "--config", metavar="FILE", help="a configuration; else that of the installed webhook"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="the cluster")
    parser.add_argument(
        "--webhook-configuration",
        metavar="NAME",
        help="the webhook's MutatingWebhookConfiguration, where there are several",
    )


def note(program: str, text: str) -> None:
    """Tell something beside the output, as one line."""
    sys.stderr.write(f"{program}: {' '.join(text.split())}\n")


def note_to_people(program: str, text: str) -> None:
    """Tell somebody who waits at a terminal what is going on; scripts want the outcome alone."""
    if sys.stderr.isatty():
        note(program, text)


def fail(program: str, error: Exception) -> int:
    """Print an error as one line; gives the exit status 2."""
    note(program, str(error))
    return 2


def read_text(path: str, *, stdin: bool = False) -> str:
    """Read a UTF-8 file, or with `stdin` and `-` standard input.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if stdin and path == "-":
            return sys.stdin.buffer.read().decode()
        return Path(path).read_bytes().decode()
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise UsageError(message) from None
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8: byte {error.start}"
        raise UsageError(message) from None


def configuration(path: str | None) -> Configuration:
    """Read the configuration file, or give the built-in one.

    Raises:
        UsageError: it cannot be read or used.
    """
    try:
        return Configuration() if path is None else load_configuration(Path(path))
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
