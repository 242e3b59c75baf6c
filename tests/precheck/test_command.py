from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.precheck.servers import accepting, answer, answering, refusing
from webhook.precheck.program import main

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = Path(__file__).parents[2] / "webhook"
PROGRAM = str(PACKAGE / "precheck" / "program.py")
LIMIT = 60  # seconds: a bound for a busy machine, no figure of any test
NOBODY = 65532


def seamless(*arguments: str, log: Path | str = "/nowhere", **settings: Any) -> Any:
    """Run the program by itself, isolated and without site packages; give how it ended."""
    command = [sys.executable, "-I", "-S", PROGRAM, f"--termination-log={log}", *arguments]
    return subprocess.run(
        command, **{"capture_output": True, "text": True, "timeout": LIMIT, **settings}, check=False
    )


def test_the_program_ends_with_0_when_all_is_up() -> None:
    """As the webhook injects it: options, two dashes, targets."""
    with accepting() as tcp, answering(answer(200)) as http:
        targets = [f"127.0.0.1:{tcp.port}", f"http://127.0.0.1:{http.port}/ready", "127.0.0.1"]
        ended = seamless("--require=all", "--timeout=600s", "--", *targets)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert sorted(line.split()[1] for line in ended.stdout.splitlines()) == sorted(targets)


def test_the_program_ends_with_1_when_the_time_is_over(tmp_path: Path) -> None:
    """What is missing, and why, is on standard error and in the termination message."""
    log = tmp_path / "log"
    log.write_text("what was there before, which is longer than what comes " * 9)
    with refusing() as bound, accepting() as server:
        missing = f"127.0.0.1:{bound.getsockname()[1]}"
        ended = seamless("--timeout=1s", missing, f"127.0.0.1:{server.port}", log=log)
    message = f"timed out after 1 s: 1 of 2 up, 2 needed; missing: {missing} (refused)"
    assert ended.returncode == 1
    assert ended.stderr == f"seamless-precheck: {message}\n"
    assert log.read_text() == message


WRONG = [
    ([], "no target is given"),
    (["--"], "no target is given"),
    (["--require=all"], "no target is given"),
    (["http://"], "target 'http://' has no valid host"),
    (["db:5432", "db:x"], "target 'db:x' has no valid port"),
    (["db", ""], "target '' is empty"),
    (["--require=most", "db"], "--require: quorum 'most' is none of all, any, majority"),
    (["--require", "0", "db"], "--require: quorum '0' is none of"),
    (["--require"], "--require: quorum '' is none of"),
    (["--timeout=soon", "db"], "--timeout: duration 'soon' is not"),
    (["--timeout", "--", "db"], "--timeout: duration '--' is not"),
    (["--timeout=2h", "db"], "--timeout: duration '2h' is not"),
    (["--interval=0", "db"], "--interval: duration '0' is too short"),
    (["--attempt-timeout=0s", "db"], "--attempt-timeout: duration '0s' is too short"),
    (["--log-format=xml", "db"], "--log-format: log format 'xml' is neither text nor json"),
    (["--quiet", "db"], "option '--quiet' is unknown"),
    (["--timeouts=1", "db"], "option '--timeouts' is unknown"),
    (["-", "db"], "option '-' is unknown"),
    (["-t5", "db"], "option '-t5' is unknown"),
    (["--", "--require=any"], "target '--require=any' is empty, begins with '-'"),
    (["--", "db", "-h"], "target '-h' is empty, begins with '-'"),
    (["db;reboot"], "target 'db;reboot' is more than a host and a port"),
    (["$(reboot)"], "target '$(reboot)' has '$' as character 1"),
    (["--what=http://user:s3cr3t@db", "db"], "option '--what' is unknown"),
    (["--timeout=http://user:s3cr3t@db", "db"], "--timeout: duration 'http://***@db' is not"),
    (["http://user:s3cr3t@db:x/"], "target 'http://***@db:x/' has no valid port"),
    (["--user:s3cr3t@db"], "option '***@db' is unknown"),
]


@pytest.mark.parametrize(("arguments", "error"), WRONG)
def test_wrong_use_ends_with_2_before_any_waiting(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], error: str
) -> None:
    """One line on standard error, the same in the termination message, and no secret."""
    log = tmp_path / "log"
    log.touch()
    assert main([f"--termination-log={log}", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"seamless precheck: {error}")
    assert err == f"seamless precheck: {log.read_text()}\n"
    assert err.count("\n") == 1
    assert "s3cr3t" not in err


def test_help_says_how_it_is_used(capfd: pytest.CaptureFixture[str]) -> None:
    """Help wins over everything that stands before two dashes."""
    for arguments in (["--help"], ["-h", "db"], ["--timeout=1s", "--help"]):
        assert main(arguments) == 0
        out, err = capfd.readouterr()
        assert out.startswith("usage: seamless precheck [OPTION...] [--] TARGET...\n")
        assert err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_help_that_cannot_be_written_is_told_in_a_line() -> None:
    """As every other command ends where its output goes to a full disk."""
    with Path("/dev/full").open("wb") as full:
        ended = seamless("--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr == "seamless precheck: standard output: No space left on device\n"


def test_every_option_is_in_the_help_and_in_the_docs() -> None:
    """No option without a word on it."""
    from webhook.precheck.program import _PARSERS, USAGE

    docs = (PACKAGE.parent / "docs" / "precheck.md").read_text()
    for option in _PARSERS:
        assert f"\n  {option} " in USAGE
        assert f"| `{option} " in docs


REASONS = [
    *("name does not resolve", "no DNS server answers", "name look-up timed out", "refused"),
    *("connection timed out", "connection reset by peer", "connected, no answer in time"),
    *("closes without an answer", "answers, but not in HTTP/1", "status 503", "no answer yet"),
    *("answers with a head of over 16384 bytes", "redirects in a circle, to", "TLS failed: "),
    *("redirects more than 5 times", "redirects from https to http", "TLS handshake timed out"),
    *("redirects to what is no valid http or https URL", "certificate not trusted: "),
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_in_the_docs(reason: str) -> None:
    """What users read in a log, they find explained."""
    assert f"\n| `{reason}" in (PACKAGE.parent / "docs" / "precheck.md").read_text()


@pytest.mark.parametrize("form", ["--require=any --timeout=60s", "--require any --timeout 60s"])
def test_an_option_takes_its_value_in_both_forms(
    capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """With an equals sign, or as the next argument; before or behind the targets."""
    with accepting() as server, refusing() as bound:
        up, down = f"127.0.0.1:{server.port}", f"127.0.0.1:{bound.getsockname()[1]}"
        assert main([*form.split(), down, up]) == 0
        assert main([down, *form.split(), "--", up]) == 0
    assert capfd.readouterr().out.count("1 of 2 up, 1 needed") == 2


def test_a_target_named_twice_counts_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Two spellings of one target are one target, in the quorum too."""
    with accepting() as server:
        target = f"127.0.0.1:{server.port}"
        assert main([target, f"tcp://{target}", target]) == 0
    assert "(1 of 1 up, 1 needed)" in capfd.readouterr().out


def test_a_timeout_of_zero_waits_for_ever(later: Callable[..., None]) -> None:
    """Nothing but the target ends the wait."""
    with refusing() as bound:
        later(1, bound.listen)
        assert main(["--timeout=0", f"127.0.0.1:{bound.getsockname()[1]}"]) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_at_once(tmp_path: Path, number: int, status: int) -> None:
    """SIGTERM ends it with 143, and the termination message says what was still missing."""
    log = tmp_path / "log"
    log.touch()
    with answering(b"") as server:
        target = f"http://user:s3cr3t@127.0.0.1:{server.port}/"
        command = [sys.executable, "-I", "-S", PROGRAM, f"--termination-log={log}", target]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with process:
            deadline = time.monotonic() + LIMIT
            while not server.requests and time.monotonic() < deadline:
                time.sleep(0.01)
            sent = time.monotonic()
            process.send_signal(number)
            _, err = process.communicate(timeout=LIMIT)
            took = time.monotonic() - sent
    shown = f"http://***@127.0.0.1:{server.port}/ (no answer yet)"
    assert process.returncode == status
    assert took < 4  # an attempt's own limit is 5 s
    assert log.read_text() == f"ended by signal {number}: 0 of 1 up, 1 needed; missing: {shown}"
    assert err == f"seamless-precheck: {log.read_text()}\n"


def test_secrets_reach_the_server_and_nothing_else(tmp_path: Path) -> None:
    """Credentials and query are sent, and are in no line and no message."""
    log = tmp_path / "log"
    log.touch()
    with answering(answer(503), answer(200)) as server:
        target = f"http://user:s3cr3t@127.0.0.1:{server.port}/?token=s3cr3t"
        up = seamless("--log-format=json", target, log=log)
    with refusing() as bound:
        target = f"http://user:s3cr3t@127.0.0.1:{bound.getsockname()[1]}/?token=s3cr3t"
        down = seamless("--timeout=1s", "--log-format=json", target, log=log)
    assert b"GET /?token=s3cr3t " in server.requests[1]
    assert b"Authorization: Basic dXNlcjpzM2NyM3Q=\r\n" in server.requests[1]
    assert (up.returncode, down.returncode) == (0, 1)
    for shown in (up.stdout, up.stderr, down.stdout, down.stderr, log.read_text()):
        assert "s3cr3t" not in shown
        assert "dXNlcjpzM2NyM3Q" not in shown
    assert "http://***@127.0.0.1:" in log.read_text()


def test_a_reader_who_left_does_not_stop_it() -> None:
    """A broken pipe, or no standard output at all, is no reason to fail."""
    with accepting() as server:
        target = f"127.0.0.1:{server.port}"
        reading, writing = os.pipe()
        os.close(reading)
        broken = seamless(target, capture_output=False, stdout=writing)
        os.close(writing)
        script = 'exec "$@" >&- 2>&-'
        command = ["sh", "-c", script, "sh", sys.executable, "-I", "-S", PROGRAM, target]
        closed = subprocess.run(command, timeout=LIMIT, check=False)
    assert (broken.returncode, closed.returncode) == (0, 0)


HEAVY = {"argparse", "asyncio", "collections", "dataclasses", "enum", "json", "logging", "re"}
HEAVY |= {
    "signal",
    "socket",
    "ssl",
    "threading",
    "typing",
    "urllib",
    "http",
    "random",
    "encodings.idna",
}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_run_imports_little(name: str) -> None:
    """Starting up is what a run costs: DNS, TCP and HTTP get by without what is slow to import."""
    with accepting() as tcp, answering(answer(200)) as http:
        targets = [name, f"{name}:{tcp.port}", f"http://{name}:{http.port}"]
        command = [sys.executable, "-I", "-S", "-X", "importtime", PROGRAM, *targets]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines()}
    assert ended.returncode == 0
    assert "webhook.precheck.targets" in imported
    assert not imported & HEAVY


def test_two_hundred_targets_take_less_than_20_megabytes() -> None:
    """The peak of the whole process, with 50 look-ups and 150 connections at once."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from webhook.precheck.program import main\n"
        "status = main(sys.argv[2:])\n"
        # Not getrusage(): its peak counts that of the process that forked, the tests' own.
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0])\n"
        "sys.exit(status)"
    )
    with accepting() as tcp, answering(answer(200)) as http:
        targets = [f"127.0.0.1:{tcp.port}", "127.0.0.1"]
        targets += [f"http://127.0.0.1:{http.port}/{number}" for number in range(148)]
        targets += [f"{number}.localhost" for number in range(50)]
        command = [sys.executable, "-I", "-S", "-c", script, str(PACKAGE.parent)]
        ended = subprocess.run(
            [*command, "--require=150", *targets],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split("VmHWM:")[1].split()[0]) < 20_000  # kB


def test_its_files_alone_run_as_a_user_with_no_rights() -> None:
    """Three files and the standard library; uid 65532, no capability, no environment, no shell."""
    if os.getuid():
        pytest.skip("only root can run it as another user")
    rights: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": {}}
    recent = "import sys; sys.exit(sys.version_info < (3, 11))"
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "webhook", "precheck")
        package.mkdir(parents=True)
        own = ("precheck/__init__.py", "precheck/program.py", "precheck/targets.py")
        for name in ("__init__.py", *own):
            shutil.copy(PACKAGE / name, package.parent / name)
        for path in (Path(folder), package.parent, package):
            path.chmod(0o555)
        for python in (sys.executable, "/usr/bin/python3"):
            command = [python, "-I", "-S", "-c", recent]
            try:
                if subprocess.run(command, **rights, check=False).returncode == 0:
                    break
            except OSError:
                continue
        else:
            pytest.skip("no Python 3.11 that another user may run")
        with answering(answer(200)) as server:
            ended = subprocess.run(
                [
                    python,
                    "-I",
                    "-S",
                    str(package / "program.py"),
                    f"http://localhost:{server.port}",
                ],
                **rights,
                cwd="/",
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        package.chmod(0o755)
    assert (ended.returncode, ended.stderr) == (0, "")
