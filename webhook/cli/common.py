"""What the subcommands share: lines that are safe to show, one for an error, and reading files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any, Final, NoReturn

from webhook.decision.configuration import Configuration, ConfigurationError
from webhook.decision.configuration import parse as parse_configuration
from webhook.decision.printable import printable

MOST_BYTES: Final = 64 * 1024 * 1024  # of a file: manifests of a whole cluster stay below
_MOST_QUOTED: Final = 100  # characters
_MOST_NOTED: Final = 2000  # characters of a line on stderr


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

    def print_help(self, file: Any = None) -> None:
        """Print it: argparse itself would hide that it cannot be written."""
        (sys.stdout if file is None else file).write(self.format_help())


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


def whole_number(text: str, least: int, most: int) -> int:
    """Read a number of an option, however many digits it has.

    Raises:
        UsageError: it is none, or out of bounds.
    """
    digits = text.lstrip("0") or text[-1:]
    sound = text.isascii() and text.isdecimal() and len(digits) <= len(str(most))
    if not (sound and least <= int(digits) <= most):
        message = f"expected a whole number from {least} to {most}, not {quoted(text)}"
        raise UsageError(message)
    return int(digits)


def quoted(text: str) -> str:
    """Quote what the user said, as far as it helps to see it."""
    return repr(text) if len(text) <= _MOST_QUOTED else repr(text[:_MOST_QUOTED]) + "..."


def line(text: str) -> None:
    """Print one line, whatever strangers wrote into it."""
    sys.stdout.write(printable(text) + "\n")


def note(program: str, text: str) -> None:
    """Tell something beside the output, as one line; it fails nothing where nobody listens."""
    text = printable(" ".join(text.split()), _MOST_NOTED)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, or closed
        sys.stderr.write(f"{program}: {text}\n")
        sys.stderr.flush()


def note_to_people(program: str, text: str) -> None:
    """Tell somebody who waits at a terminal what is going on; scripts want the outcome alone."""
    if sys.stderr.isatty():
        note(program, text)


def fail(program: str, error: Exception) -> int:
    """Print an error as one line; gives the exit status 2."""
    note(program, str(error))
    return 2


def read_text(path: str, *, stdin: bool = False) -> str:
    """Read a UTF-8 file of bounded size, or with `stdin` and `-` standard input.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if stdin and path == "-":
            if sys.stdin is None:
                raise UsageError("standard input is closed")
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with open(path, "rb") as file:  # noqa: PTH123 - reads no more than it must
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            message = f"{path}: larger than {MOST_BYTES >> 20} MiB"
            raise UsageError(message)
        return content.decode()
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise UsageError(message) from None
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8: byte {error.start}"
        raise UsageError(message) from None
    except ValueError as error:  # a NUL in its name
        message = f"{path}: {error}"
        raise UsageError(message) from None


def configuration(path: str | None) -> Configuration:
    """Read the configuration file, or give the built-in one.

    Raises:
        UsageError: it cannot be read or used.
    """
    if path is None:
        return Configuration()
    try:
        return parse_configuration(read_text(path), path)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
