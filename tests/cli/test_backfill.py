"""`seamless backfill` and `seamless revert`: what they take, what they tell, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.builders import Json, deployment, record_of, worker, workload
from tests.cluster.fake_api import Fault
from tests.cluster.rolling import Rolling, Ticks, bare
from webhook import cli
from webhook.cli import backfill, revert
from webhook.cli.screen import Screen
from webhook.cluster.backfill import End, Outcome
from webhook.decision.workload import DEPLOYMENT, STATEFUL_SET
from webhook.rollout.progress import Change, Progress


@pytest.fixture
def api() -> Iterator[Rolling]:
    """A cluster with a webhook that patches everything."""
    server = Rolling()
    server.namespace("shop")
    server.namespace("bank")
    server.install({"scope": "cluster"})
    yield server
    server.close()


@pytest.fixture
def command(
    api: Rolling,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Run a command; gives exit status, output and errors."""
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "shop")))

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        main = {"backfill": backfill.main, "revert": revert.main}[name]
        code = main(list(arguments), clock=Ticks(api.step))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(output: str) -> list[Json]:
    """Read JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def test_a_preview_tells_what_would_be_done_and_does_nothing(api: Rolling, command: Any) -> None:
    """In which order, which pods restart, how long it takes, and what is put off."""
    api.place(workload("StatefulSet"), "db")
    api.place(deployment(), "web")
    api.place(deployment(paused=True), "held")
    api.place(deployment(worker()), "worker")
    code, out, err = command("backfill")
    assert (code, err) == (0, "")
    assert out == (
        "ORDER   NAMESPACE   NAME             RESTARTS   LEAST TIME   WHY\n"
        "1       shop        deployment/web   3 pods     1m28s        would get pre-stop-sleep, "
        "min-ready; pods would restart\n"
        "2       shop        statefulset/db   3 pods     2m58s        would get pre-stop-sleep, "
        "min-ready; pods would restart\n"
        "\n"
        "NAMESPACE   NAME              PUT OFF\n"
        "shop        deployment/held   it is paused\n"
        "\n"
        "2 workloads would change of 4 looked at, 6 pods would restart, 1 put off; "
        "at least 4m26s, 1 rollout at a time\n"
        "nothing has been changed: --apply does it\n"
    )
    assert not api.patches


def test_applied_it_tells_each_step_and_ends_with_a_table(api: Rolling, command: Any) -> None:
    """Plain lines, as this is no terminal."""
    api.place(deployment(), "web")
    code, out, _ = command("backfill", "--apply")
    assert code == 0
    assert out.splitlines() == [
        (
            "1 workload to change of 1 looked at, 3 pods to restart, 0 put off; "
            "at least 1m28s, 1 rollout at a time"
        ),
        "shop/deployment/web: begun (1 of 1), 3 pods to restart, at least 1m28s",
        "shop/deployment/web: 0 of 3 pods are new",
        "shop/deployment/web: 1 of 3 pods are new",
        "shop/deployment/web: 2 of 3 pods are new",
        "shop/deployment/web: done after 8s: all of its 3 pods are available",
        "",
        "NAMESPACE   NAME             OUTCOME   TIME   WHY",
        "shop        deployment/web   done      8s     all of its 3 pods are available",
        "",
        "1 done",
    ]
    assert record_of(api.stored(DEPLOYMENT, "web"), template=True)
    code, out, _ = command("backfill", "--apply")
    assert code == 0
    assert out.splitlines()[-1] == "there was nothing to do"


def test_for_machines_every_line_is_an_object(api: Rolling, command: Any) -> None:
    """A preview holds the patches; a run what happens, and what became of it."""
    api.place(deployment(), "web")
    api.place(deployment(paused=True), "held")
    code, out, _ = command("backfill", "-o", "json")
    assert code == 0
    change, put_off, whole = lines(out)
    assert change["patch"]
    assert {key: change[key] for key in ("event", "order", "kind", "namespace", "name")} == {
        "event": "change",
        "order": 1,
        "kind": "Deployment",
        "namespace": "shop",
        "name": "web",
    }
    assert (change["restarts"], change["pods"], change["leastSeconds"]) == (True, 3, 88)
    assert (put_off["event"], put_off["name"]) == ("put-off", "held")
    assert whole == {
        "event": "plan",
        "apply": False,
        "workloads": 2,
        "changes": 1,
        "podsToRestart": 3,
        "putOff": 1,
        "leastSeconds": 88,
    }
    code, out, _ = command("backfill", "-o", "json", "--apply")
    told = lines(out)[3:]
    assert [each["event"] for each in told] == ["begun", *["moved"] * 3, "ended", "summary"]
    assert told[-2]["outcome"] == "done"
    assert told[-1]["outcomes"]["done"] == 1
    assert told[-1]["outcomes"]["put-off"] == 1
    assert (told[-1]["notBegun"], told[-1]["error"]) == (0, None)


def test_a_failure_ends_with_1_and_says_how_to_go_on(api: Rolling, command: Any) -> None:
    """Which workload, where to look, and what passes it by."""
    api.place(deployment(), "a")
    api.place(deployment(), "b")
    api.failing.add("a")
    code, out, err = command("backfill", "--apply")
    assert (code, err) == (1, "")
    assert out.splitlines()[-3:] == [
        "1 failed, 1 not begun",
        (
            "stopped, as shop/deployment/a failed: see kubectl describe -n shop "
            "deployments.apps/a; --exclude shop/a passes it by"
        ),
        "seamless backfill --apply goes on where it stands: what is done stays done",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_next_run_goes_on(
    api: Rolling, command: Any, number: signal.Signals
) -> None:
    """SIGTERM leaves the rollout, Ctrl-C awaits it; then signals are what they were."""
    for name in "ab":
        api.place(deployment(replicas=6), name)
    before = signal.getsignal(number)
    api.on_step.append(lambda: api.on_step.clear() or os.kill(os.getpid(), number))
    code, out, _ = command("backfill", "--apply")
    assert code == 1
    awaited = number == signal.SIGINT
    assert out.splitlines()[-2 if awaited else -3] == (
        "1 done, 1 not begun" if awaited else "1 left, 1 not begun"
    )
    assert out.splitlines()[-1].startswith("seamless backfill --apply goes on")
    assert signal.getsignal(number) == before
    code, out, _ = command("backfill", "--apply")
    assert code == 0
    assert ("patched and rolling" in out or "awaited (1 of 2)" in out) != awaited


def test_ctrl_c_before_anything_has_begun_ends_it_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While modules are imported, too, which takes a second."""

    def interrupted(_name: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert cli.main(["backfill"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_missing_right_is_one_line_with_its_rule(api: Rolling, command: Any) -> None:
    """On standard error, and the end is 1."""
    api.forbidden.add("statefulsets")
    code, out, err = command("backfill")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.endswith('needs: apiGroups ["apps"], resources [statefulsets], verbs [list]\n')


def test_whether_a_webhook_is_there_is_no_guess(api: Rolling, command: Any, tmp_path: Path) -> None:
    """A configuration that is given does not tell: the right that would is named."""
    config = tmp_path / "config.yaml"
    config.write_text("scope: cluster\n")
    api.forbidden.add("mutatingwebhookconfigurations")
    code, _, err = command("backfill", "--config", str(config))
    assert code == 1
    assert "resources [mutatingwebhookconfigurations], verbs [list]" in err


def test_an_opt_in_that_is_withdrawn_midway_counts_at_once(api: Rolling, command: Any) -> None:
    """The namespace is read anew before each change."""
    for name in "ab":
        api.place(deployment(), name)
    api.on_step.append(lambda: api.namespace("shop", inject="disabled"))
    code, out, _ = command("backfill", "--apply")
    assert code == 0
    assert "shop/deployment/b: unchanged: inject: disabled on its namespace" in out
    assert [name for name, _, _ in api.patches] == ["a"]


def test_selections_count(api: Rolling, command: Any) -> None:
    """One namespace, all, labels, and without those excluded."""
    api.place(deployment(metadata={"labels": {"tier": "web"}}), "a")
    api.place(deployment(), "b")
    api.place(deployment(), "c", "bank")

    def seen(*arguments: str) -> set[str]:
        out = command("backfill", "-o", "json", *arguments)[1]
        return {each["name"] for each in lines(out) if each["event"] == "change"}

    assert seen() == {"a", "b"}
    assert seen("-n", "bank") == {"c"}
    assert seen("-A") == {"a", "b", "c"}
    assert seen("-A", "-l", "tier=web") == {"a"}
    assert seen("-A", "--exclude", "shop/a", "--exclude", "bank") == {"b"}


@pytest.mark.parametrize("apply", [[], ["--apply"]])
def test_an_exclusion_that_excludes_nothing_is_told(
    api: Rolling, command: Any, apply: list[str]
) -> None:
    """It may be misspelt, and what it was to spare is among what is done."""
    api.place(deployment(), "payments")
    excluded = ["--exclude", "shop/paymnets", "--exclude", "bank", "--exclude", "shop/payments"]
    status, _, err = command("backfill", "-A", *excluded, *apply)
    assert status == 0
    told = [line for line in err.splitlines() if "--exclude" in line]
    assert told == [
        f"seamless backfill: --exclude {each}: there is no such workload among those selected"
        for each in ("bank", "shop/paymnets")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max-concurrent", "0"],
            "--max-concurrent: expected a whole number from 1 to 100, not '0'",
        ),
        (["--pause-between", "soon"], "--pause-between: 'soon': "),
        (["--window", "22-6"], "--window: expected two times of day such as 22:00-06:00"),
        (["--window", "25:00-06:00"], "--window: expected two times of day"),
        (["--window", "06:00-06:00"], "--window: expected two times of day"),
        (["--time-zone", "UTC"], "--time-zone says whose hours --window means"),
        (["--window", "22:00-06:00", "--time-zone", "No/Where"], "--time-zone: 'No/Where'"),
        (["--exclude", "a/b/c"], "--exclude: 'a/b/c': expected NAMESPACE or NAMESPACE/NAME"),
        (["-n", "A"], "--namespace: 'A': expected a namespace's name"),
        (["-n", "a", "-A"], "not allowed with argument"),
        (["--app"], "unrecognized arguments: --app"),
        (["--config", "/no/where"], "/no/where: No such file"),
        (["--kubeconfig", "/no/where"], "/no/where"),
    ],
)
def test_wrong_use_is_one_line_and_2(command: Any, arguments: list[str], message: str) -> None:
    """What it was, and what would be right."""
    code, out, err = command("backfill", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("seamless backfill: ")
    assert err.count("\n") == 1


def test_audit_mode_is_previewed_and_never_applied(api: Rolling, command: Any) -> None:
    """In audit mode nothing is patched, by nobody."""
    api.install({"scope": "cluster", "mode": "audit"})
    api.place(deployment(), "web")
    assert command("backfill")[0] == 0
    code, _, err = command("backfill", "--apply")
    assert code == 2
    assert "mode is audit" in err
    assert not api.patches


def test_without_a_webhook_a_backfill_says_by_what_it_decides(
    api: Rolling, command: Any, tmp_path: Path
) -> None:
    """And sends the whole patch."""
    api.admission = None
    for things in api.objects.values():
        things.pop("webhook", None)
    before = bare(api.place(deployment(), "web"))
    config = tmp_path / "config.yaml"
    config.write_text("scope: cluster\n")
    code, _, err = command("backfill", "--apply", "--config", str(config))
    assert (code, err) == (
        0,
        "seamless backfill: no webhook is installed here: decided by --config\n",
    )
    assert record_of(api.stored(DEPLOYMENT, "web"), template=True)
    assert command("revert", "--apply")[::2] == (0, "")
    assert bare(api.stored(DEPLOYMENT, "web")) == before


def test_a_revert_in_scope_says_what_to_do_and_does_it_if_told(api: Rolling, command: Any) -> None:
    """It is put off, or marked first."""
    before = bare(api.place(workload("StatefulSet"), "db"))
    command("backfill", "--apply")
    code, out, _ = command("revert", "--apply")
    assert code == 0
    assert (
        "put off   -      it is still in scope: withdraw its opt-in first, or say --disable" in out
    )
    code, out, _ = command("revert", "--apply", "--disable")
    assert code == 0
    assert out.splitlines()[-1] == "1 done"
    after = bare(api.stored(STATEFUL_SET, "db"))
    assert after["metadata"].pop("annotations") == {"seamless-rollouts.dev/inject": "disabled"}
    assert after == before


def test_fields_outside_the_template_can_come_in_alone(api: Rolling, command: Any) -> None:
    """No pod restarts."""
    api.place(deployment(), "web")
    code, out, _ = command("backfill", "--no-restart", "--apply")
    assert code == 0
    assert "0 pods to restart" in out
    assert api.most_rolling == 0
    assert api.stored(DEPLOYMENT, "web")["spec"]["minReadySeconds"] == 30


def test_both_are_commands_and_an_api_server_that_breaks_is_one_line(
    api: Rolling, command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seamless backfill` and `seamless revert`."""
    del command
    monkeypatch.setattr("random.random", lambda: 0.0)
    monkeypatch.setattr("webhook.cluster.backfill.Clock.wait", lambda *_: None)
    monkeypatch.setattr("webhook.cluster.backfill.Clock.seconds", _Far())
    api.faults.append(lambda _: Fault(500))
    for name in ("backfill", "revert"):
        assert cli.main([name]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"seamless {name}: GET ")
        assert captured.err.count("\n") == 1


class _Far:
    """A clock of which no two looks are near each other."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, *_: object) -> float:
        """Look at it."""
        self.now += 1000
        return self.now


def test_a_terminal_shows_a_bar_for_each_rollout_under_way() -> None:
    """And one for the whole; lines are printed above, and nothing is read as markup."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    change = Change(DEPLOYMENT, "shop", "web", pods=3)
    with Screen(2, console) as screen:
        screen.begun(change, 1, 2)
        screen.moved(change, Progress("1 of 3 pods are [new]", pods=1))
        screen.line("[bold]a line[/bold]")
        screen.noted("")
        screen.ended(Outcome(change, End.DONE, "done"))
    shown = written.getvalue()
    assert "1 of 3 pods are [new]" in shown
    assert "[bold]a line[/bold]" in shown
    assert "1 of 2 workloads" in shown
    assert shown.index("0 of 2 workloads") < shown.index("1 of 2 workloads")


def test_in_a_terminal_it_shows_how_far_it_is(
    api: Rolling, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the lines, which stay, but for each step."""
    api.place(deployment(), "web")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = command("backfill", "--apply")
    assert code == 0
    assert "shop/deployment/web: done after 8s" in out
    assert "shop/deployment/web: 1 of 3" not in out
    assert out.splitlines()[-1] == "1 done"
