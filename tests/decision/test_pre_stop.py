"""Contract §2, "preStop" and "chain"."""

from __future__ import annotations

import subprocess
from typing import Any

import orjson
import pytest

from tests.builders import (
    EXEC_QUIT,
    HTTP_HOOK,
    KINDS,
    NATIVE_30,
    OLD_SERVER,
    WINDOWS,
    Json,
    admission,
    after,
    changed,
    codes,
    container,
    decide,
    deployment,
    grace,
    hooked,
    hooks,
    namespaces,
    pod_of,
    record_of,
    review,
    rolling,
    sidecar,
    template_changed,
    with_settings,
    worker,
    workload,
)
from tests.decision.validation import complaints
from webhook.decision.mutations.model import ServerVersion

EXEC_30 = {"exec": {"command": ["sleep", "30"]}}
USERS_HOOKS = [
    EXEC_QUIT,
    HTTP_HOOK,
    {"tcpSocket": {"port": 80}},
    {"sleep": {"seconds": 5}},
    {"sleep": {"seconds": 0}},
    {},
    {"exec": {}},
    {"exec": None},
    {"newAction": {"of": "a newer server"}},
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_regular_container_without_a_hook_sleeps(kind: str) -> None:
    """And only those; the rest of the pod stays what it was."""
    given = workload(
        kind,
        container("a"),
        hooked(EXEC_QUIT, "b"),
        container("c", restartPolicy="Always"),
        pod={"initContainers": [worker("first"), sidecar("proxy")]},
    )
    result = after(given)
    assert hooks(result) == [NATIVE_30, EXEC_QUIT, NATIVE_30]
    assert pod_of(result)["initContainers"] == pod_of(given)["initContainers"]


@pytest.mark.parametrize(
    "lifecycle",
    [
        None,
        {},
        {"preStop": None},
        {"postStart": {"exec": {"command": ["true"]}}},
        {"stopSignal": "SIGUSR1"},
        {"postStart": None, "stopSignal": None, "preStop": None},
        {"newField": {"a": [1]}},
    ],
)
def test_only_pre_stop_is_ever_written(lifecycle: Any) -> None:
    """`postStart` and `stopSignal` stay, and so does what we have never heard of."""
    given = deployment(container())
    pod_of(given)["containers"][0]["lifecycle"] = lifecycle
    result = after(given)
    assert pod_of(result)["containers"][0]["lifecycle"] == {
        **(lifecycle or {}),
        "preStop": NATIVE_30,
    }
    back = after(with_settings(result, inject="disabled"), result)
    assert pod_of(back) == pod_of(given)


@pytest.mark.parametrize("hook", USERS_HOOKS)
def test_a_user_s_hook_is_the_user_s(hook: Json) -> None:
    """A sleep of zero seconds is how users opt out of an injecting webhook (KEP-4818)."""
    given = deployment(hooked(hook))
    assert hooks(after(given)) == [hook]
    assert grace(after(given)) is None


@pytest.mark.parametrize("hook", [None, EXEC_QUIT])
def test_native_sidecars_are_left_alone(hook: Json | None) -> None:
    """Their preStop runs beside the application's (KEP-753)."""
    proxy = sidecar(lifecycle={"preStop": hook} if hook else None)
    given = deployment(pod={"initContainers": [proxy]}, says={"pre-stop-existing": "chain"})
    assert pod_of(after(given))["initContainers"] == [proxy]


# --- handler -------------------------------------------------------------------------------------

NEW = ServerVersion(1, 30)


@pytest.mark.parametrize(
    ("handler", "server", "expected", "warned"),
    [
        ("auto", None, NATIVE_30, set()),
        ("auto", NEW, NATIVE_30, set()),
        ("auto", ServerVersion(1, 37), NATIVE_30, set()),
        ("auto", ServerVersion(2, 0), NATIVE_30, set()),
        ("auto", OLD_SERVER, EXEC_30, {"exec-sleep"}),
        ("auto", ServerVersion(1, 28), EXEC_30, {"exec-sleep"}),
        ("none", OLD_SERVER, EXEC_30, {"exec-sleep"}),
        ("none", NEW, NATIVE_30, set()),
        ("sleep", None, NATIVE_30, set()),
        ("sleep", NEW, NATIVE_30, set()),
        ("sleep", OLD_SERVER, EXEC_30, {"exec-sleep", "sleep-too-new"}),
        ("exec", None, EXEC_30, {"exec-sleep"}),
        ("exec", NEW, EXEC_30, {"exec-sleep"}),
        ("exec", OLD_SERVER, EXEC_30, {"exec-sleep"}),
    ],
)
def test_the_handler_is_native_where_the_server_knows_it(
    handler: str, server: ServerVersion | None, expected: Json, warned: set[str]
) -> None:
    """`sleep` on an API server older than 1.30 falls back to exec, with a warning."""
    given = deployment(says={"pre-stop-handler": handler})
    decision = decide(given, by=admission(server=server))
    assert hooks(decision.result) == [expected]
    assert grace(decision.result) == 60
    assert codes(decision) == warned


def test_the_warning_of_an_exec_sleep_comes_once() -> None:
    """However many containers there are."""
    decision = decide(deployment(container("a"), container("b")), by=admission(server=OLD_SERVER))
    assert [alert.code for alert in decision.alerts] == ["exec-sleep"]


def bound(*terms: list[Json]) -> Json:
    """Give a pod with a required node affinity of these terms, each of some expressions."""
    selected = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": selected}
    return {"affinity": {"nodeAffinity": required, "podAffinity": None}}


def on(*systems: str, key: str = "kubernetes.io/os", operator: str = "In") -> Json:
    """Give an expression about the operating system of a node."""
    return {"key": key, "operator": operator, "values": list(systems)}


ZONE = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "windows"]}
WINDOWS_PODS = [
    WINDOWS,
    {"nodeSelector": {"beta.kubernetes.io/os": "windows"}},
    {"securityContext": {"windowsOptions": {"runAsUserName": "ContainerUser"}}},
    {"initContainers": [worker("i", securityContext={"windowsOptions": {"hostProcess": True}})]},
    bound([on("windows")]),
    bound([on("windows", key="beta.kubernetes.io/os")]),
    bound([ZONE, on("windows")]),
    bound([on("windows")], [ZONE, on("windows")]),
    bound([on("windows")], []),
    bound([on("linux", operator="NotIn")]),
    {"nodeSelector": {"kubernetes.io/os": "windows"}},
    {"os": {"name": "windows"}, "nodeSelector": {"kubernetes.io/os": "linux"}},
    {"os": None, "nodeSelector": {"kubernetes.io/os": "windows"}},
    {"os": {"name": None}, "nodeSelector": {"kubernetes.io/os": "windows"}},
]


@pytest.mark.parametrize("pod", WINDOWS_PODS)
@pytest.mark.parametrize("handler", ["auto", "sleep", "exec"])
def test_on_windows_only_the_native_action_is_used(pod: Json, handler: str) -> None:
    """There is no `sleep` to run there."""
    given = deployment(pod=pod, says={"pre-stop-handler": handler})
    assert hooks(after(given)) == [NATIVE_30]
    decision = decide(given, by=admission(server=OLD_SERVER))
    assert hooks(decision.result) == [None]
    assert grace(decision.result) is None
    assert decision.alerts


OTHER_PODS: list[Json] = [
    {"os": {"name": "linux"}},
    {"os": {}},
    {"nodeSelector": {"kubernetes.io/os": "linux"}},
    {"nodeSelector": {"windows": "windows"}},
    {"os": {"name": "linux"}, "nodeSelector": {"beta.kubernetes.io/os": "windows"}},
    {"securityContext": {"windowsOptions": None}},
    {"securityContext": {"windowsOptions": {}}},
    {"securityContext": {"runAsUser": 1}},
    {"affinity": None},
    {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}}},
    bound(),
    bound([]),
    bound([ZONE]),
    bound([on("linux")]),
    bound([on("linux", "windows")]),
    bound([on("windows", operator="NotIn")]),
    bound([on("windows")], [ZONE]),
    bound([{**on(), "operator": "Exists"}]),
    {
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [on("windows")]}}
                ]
            }
        }
    },
]


@pytest.mark.parametrize("pod", OTHER_PODS)
def test_other_pods_are_no_windows(pod: Json) -> None:
    """They take an exec sleep."""
    assert hooks(after(deployment(pod=pod), by=admission(server=OLD_SERVER))) == [EXEC_30]


def test_windows_options_of_a_container_tell_windows() -> None:
    """A regular container's too."""
    host = container("host", securityContext={"windowsOptions": {"hostProcess": True}})
    decision = decide(deployment(container(), host), by=admission(server=OLD_SERVER))
    assert hooks(decision.result) == [None, None]


@pytest.mark.parametrize("odd", [5, [], "windows", {"nodeAffinity": ["windows"]}, [{"a": 1}]])
def test_an_affinity_of_another_shape_tells_nothing(odd: Any) -> None:
    """A custom resource may hold anything, also where the word is in it."""
    for key in ("affinity", "securityContext"):
        pod = {key: odd, "nodeSelector": {"kubernetes.io/os": None}}
        result = after(workload("Rollout", pod=pod), by=admission(server=OLD_SERVER))
        assert hooks(result) == [EXEC_30]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for terms in ([None, 1], [{"matchExpressions": [None, {"key": ["kubernetes.io/os"]}]}], {}):
        pod = {"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": terms}}}}
        result = after(workload("Rollout", pod=pod), by=admission(server=OLD_SERVER))
        assert hooks(result) == [EXEC_30]


def test_a_word_that_is_written_as_an_escape_is_found() -> None:
    """The API server writes it plainly; others need not."""
    body = orjson.dumps(review(deployment(pod=bound([on("windows")]))))
    odd = body.replace(b"kubernetes.io/os", b"kubernetes.io\\/os")
    assert odd != body
    for each in (body, odd):
        by = admission(server=OLD_SERVER)
        decision = by.decide(by.decode(each))
        assert hooks(decision.result) == [None]


def test_a_warning_about_the_whole_pod_comes_once() -> None:
    """Not once for each container."""
    given = deployment(container("a"), container("b"), pod=WINDOWS)
    decision = decide(given, by=admission(server=OLD_SERVER))
    assert len(decision.alerts) == 1


# --- which ---------------------------------------------------------------------------------------


def test_only_the_named_containers_get_the_sleep() -> None:
    """`pre-stop-containers`; a name that matches none draws a warning."""
    given = deployment(
        container("a"), container("b"), container("c"), says={"pre-stop-containers": "c a"}
    )
    decision = decide(given)
    assert hooks(decision.result) == [NATIVE_30, None, NATIVE_30]
    assert not decision.alerts
    decision = decide(with_settings(given, pre_stop_containers="b,gone"))
    assert hooks(decision.result) == [None, NATIVE_30, None]
    assert codes(decision) == {"no-such-container"}
    assert "gone" in decision.alerts[0].text


def test_names_of_init_containers_match_no_regular_container() -> None:
    """Sidecars are left alone, named or not."""
    given = deployment(
        pod={"initContainers": [sidecar("proxy")]}, says={"pre-stop-containers": "proxy"}
    )
    decision = decide(given)
    assert hooks(decision.result) == [None]
    assert codes(decision) == {"no-such-container"}


# --- where old and new never overlap -------------------------------------------------------------

RECREATE = {"strategy": {"type": "Recreate"}}
CANARY = {"canary": {"maxSurge": 0, "maxUnavailable": 1}}
ALONE: list[Json] = [
    deployment(**RECREATE),
    deployment(replicas=1, **RECREATE),
    workload("StatefulSet", replicas=1),
    workload("StatefulSet", replicas=None),
    workload("StatefulSet", replicas=1, updateStrategy={"type": "OnDelete"}),
    deployment(replicas=1, **rolling(maxSurge=0, maxUnavailable=1)),
    deployment(replicas=1, **rolling(maxSurge="0%", maxUnavailable="100%")),
    deployment(replicas=None, **rolling(maxSurge=0, maxUnavailable=1)),
    workload("Rollout", replicas=1, strategy=CANARY),
    workload("Rollout", replicas=None, strategy={"canary": {"maxSurge": "0%"}}),
]
OVERLAPPING: list[Json] = [
    deployment(replicas=1),
    deployment(replicas=1, **rolling(maxSurge="1%", maxUnavailable=1)),
    deployment(replicas=1, **rolling(maxSurge=None, maxUnavailable=1)),
    deployment(replicas=2, **rolling(maxSurge=0, maxUnavailable=1)),
    deployment(replicas=1, says={"strategy": "surge"}, **rolling(maxSurge=0, maxUnavailable=1)),
    workload("StatefulSet", replicas=2),
    workload("Rollout", replicas=1),
    workload("Rollout", replicas=2, strategy=CANARY),
    workload("Rollout", replicas=1, strategy={"blueGreen": {"activeService": "a"}}),
    workload("Rollout", replicas=1, strategy={"canary": None}),
    workload("DaemonSet"),
]
WITH_ALONE = pytest.mark.parametrize("given", ALONE)


@WITH_ALONE
@pytest.mark.parametrize(
    "by",
    [
        admission(),
        admission({"defaults": {"pre-stop-sleep": "9s", "shutdown-time": "50s"}}),
        admission(namespace=namespaces(**{"pre-stop-sleep": "9s"})),
    ],
)
def test_without_overlap_an_inherited_sleep_is_not_applied(given: Json, by: Any) -> None:
    """It would only lengthen the outage; a warning tells of that."""
    decision = decide(given, by=by)
    assert hooks(decision.result) == [None]
    assert grace(decision.result) is None
    assert decision.result["spec"]["minReadySeconds"] == 30
    assert codes(decision) & {"recreate", "no-overlap"}


@WITH_ALONE
@pytest.mark.parametrize("template", [True, False])
def test_without_overlap_a_sleep_that_the_workload_asks_for_is_applied(
    given: Json,
    template: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A setting written on the workload or its template always applies."""
    result = after(with_settings(given, template=template, pre_stop_sleep="9s"))
    assert hooks(result) == [{"sleep": {"seconds": 9}}]
    assert grace(result) == 39


@pytest.mark.parametrize("given", OVERLAPPING)
def test_where_a_new_pod_comes_first_the_sleep_is_applied(given: Json) -> None:
    """Also where the strategy is made so by a setting."""
    assert hooks(after(given)) == [NATIVE_30]


def test_a_surge_that_cannot_be_makes_no_overlap() -> None:
    """A host port: the setting is left alone."""
    given = deployment(
        container(ports=[{"containerPort": 80, "hostPort": 80}]),
        replicas=1,
        says={"strategy": "surge"},
        **rolling(maxSurge=0, maxUnavailable=1),
    )
    decision = decide(given)
    assert hooks(decision.result) == [None]
    assert {"no-surge", "no-overlap"} <= codes(decision)


def test_more_replicas_bring_the_sleep_with_the_next_rollout() -> None:
    """Scaling alone restarts no pod."""
    one = after(workload("StatefulSet", replicas=1))
    three = changed(one, "spec", "replicas", to=3)
    scaled = decide(three, one)
    assert scaled.kept
    assert hooks(scaled.result) == [None]
    rolled = template_changed(three, "containers", 0, "image", to="new:2")
    assert hooks(after(rolled, one)) == [NATIVE_30]


def test_a_sleep_leaves_with_the_rollout_that_turns_to_recreate() -> None:
    """The strategy lies outside the template: the hook stays until pods restart anyway."""
    treated = after(deployment())
    turned = changed(treated, "spec", "strategy", to={"type": "Recreate"})
    decision = decide(turned, treated)
    assert decision.kept
    assert hooks(decision.result) == [NATIVE_30]
    rolled = template_changed(turned, "containers", 0, "image", to="new:2")
    assert hooks(after(rolled, treated)) == [None]


# --- chain ---------------------------------------------------------------------------------------

CHAIN = {"pre-stop-existing": "chain"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_exec_hook_is_chained_after_the_sleep(kind: str) -> None:
    """It warns that it needs a shell in the image."""
    decision = decide(workload(kind, hooked(EXEC_QUIT), container("b"), says=CHAIN))
    chained, plain = hooks(decision.result)
    assert plain == NATIVE_30
    command = chained["exec"]["command"]
    assert command[-3:] == EXEC_QUIT["exec"]["command"]
    assert "sleep 30" in command[2]
    assert grace(decision.result) == 60
    assert "chain-needs-shell" in codes(decision)


def run(command: list[str], path: str = "/usr/bin:/bin") -> str:
    """Run a hook's command as the kubelet does, and give what it wrote."""
    done = subprocess.run(
        command, capture_output=True, check=False, env={"PATH": path}, text=True, timeout=60
    )
    return done.stdout


ARGUMENTS = [
    ["a b", "$HOME", "`id`", "$(id)", "'", '"', "\\", "", "*", "-n", "%s", "a\nb", "ü", ";exit"],
    ["-e", "--", "-"],
    [],
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_chained_hook_runs_the_user_s_command_with_its_arguments_intact(
    arguments: list[str],
) -> None:
    """The shell never parses them."""
    shows = ["/usr/bin/env", "python3", "-c", "import sys; print(sys.argv[1:])", *arguments]
    given = deployment(hooked({"exec": {"command": shows}}), says={**CHAIN, "pre-stop-sleep": "1s"})
    command = hooks(after(given))[0]["exec"]["command"]
    assert run(command).strip() == repr(arguments)


def test_a_chained_hook_runs_the_user_s_command_even_if_the_sleep_fails(tmp_path: Any) -> None:
    """As in an image that has a shell and no `sleep`."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    given = deployment(hooked({"exec": {"command": ["/bin/echo", "quit"]}}), says=CHAIN)
    command = hooks(after(given))[0]["exec"]["command"]
    done = subprocess.run(
        ["/bin/sh", *command[1:]], capture_output=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert done.stdout == b"quit\n"


@pytest.mark.parametrize("hook", [each for each in USERS_HOOKS if each != EXEC_QUIT])
def test_any_other_handler_is_kept_with_a_warning(hook: Json) -> None:
    """Only exec can be chained."""
    decision = decide(deployment(hooked(hook), says=CHAIN))
    assert hooks(decision.result) == [hook]
    assert "hook-kept" in codes(decision)


@pytest.mark.parametrize("pod", WINDOWS_PODS)
def test_on_windows_every_hook_is_kept_with_a_warning(pod: Json) -> None:
    """There is no `sh`."""
    decision = decide(deployment(hooked(EXEC_QUIT), pod=pod, says=CHAIN))
    assert hooks(decision.result) == [EXEC_QUIT]
    assert "hook-kept" in codes(decision)


def test_a_chained_hook_comes_back_as_it_was() -> None:
    """With what else the user wrote inside it."""
    hook = {"exec": {"command": ["quit", "now"], "newField": {"a": None}}}
    given = deployment(hooked(hook), says=CHAIN)
    treated = after(given)
    assert hooks(after(with_settings(treated, inject="disabled"), treated)) == [hook]
    kept = with_settings(treated, pre_stop_existing=None)
    assert hooks(after(kept, treated)) == [hook]


def test_chain_leaves_the_containers_that_were_not_chosen() -> None:
    """`pre-stop-containers` says which."""
    says = {**CHAIN, "pre-stop-containers": "b"}
    result = after(deployment(hooked(EXEC_QUIT, "a"), hooked(EXEC_QUIT, "b"), says=says))
    first, second = hooks(result)
    assert first == EXEC_QUIT
    assert second["exec"]["command"][0] == "sh"


# --- native --------------------------------------------------------------------------------------

MADE_NATIVE: list[tuple[list[str], int]] = [
    (["sleep", "10"], 10),
    (["/bin/sleep", "10"], 10),
    (["sleep", "10s"], 10),
    (["sleep", "2m"], 120),
    (["sleep", "1h"], 3600),
    (["sleep", "1d"], 86400),
    (["sleep", "0.5"], 1),
    (["sleep", ".5"], 1),
    (["sleep", "5."], 5),
    (["sleep", "1.5m"], 90),
    (["sleep", "0.01m"], 1),
    (["sleep", "007"], 7),
    (["sleep", "1m", "30"], 90),
    (["sleep", "0.5", "0.5"], 1),
    (["sleep", "0.5", "0.6"], 2),
    (["sh", "-c", "sleep 10"], 10),
    (["/bin/sh", "-c", "sleep 10"], 10),
    (["/bin/sh", "-c", "/bin/sleep 10"], 10),
    (["bash", "-c", "  sleep\t1m  30s\n"], 90),
    (["/bin/bash", "-c", "sleep 10"], 10),
    (["/usr/bin/bash", "-c", "sleep 10"], 10),
    (["ash", "-c", "sleep 0.1"], 1),
]
KEPT_AS_THEY_ARE: list[list[str]] = [
    ["sleep"],
    ["sleep", "0"],
    ["sleep", "0.0s"],
    ["sleep", "-1"],
    ["sleep", "+1"],
    ["sleep", "1e1"],
    ["sleep", "0x10"],
    ["sleep", "inf"],
    ["sleep", "infinity"],
    ["sleep", "10", "10x"],
    ["sleep", "1w"],
    ["sleep", "1 0"],
    ["sleep", " 10"],
    ["sleep", "10\n"],
    ["sleep", "."],
    ["sleep", ""],
    ["sleep", "٣"],
    ["sleep", "$N"],
    ["sleep", "--", "10"],
    ["sleep", "--help"],
    ["sleep", "9" * 400],
    ["sleep 10"],
    ["Sleep", "10"],
    ["./sleep", "10"],
    ["/opt/bin/sleep", "10"],
    ["usleep", "10"],
    ["env", "sleep", "10"],
    ["sh", "-c", "sleep"],
    ["sh", "-c", "sleep 10; quit"],
    ["sh", "-c", "sleep 10 && quit"],
    ["sh", "-c", "sleep 10 & quit"],
    ["sh", "-c", "sleep 10\nquit"],
    ["sh", "-c", "sleep\n10"],
    ["sh", "-c", "quit\nsleep 10"],
    ["sh", "-c", "sleep $N"],
    ["sh", "-c", "sleep `id`"],
    ["sh", "-c", "sleep 10 > /dev/null"],
    ["sh", "-c", "sleep 10 #"],
    ["sh", "-c", "N=1 sleep 10"],
    ["sh", "-c", "! sleep 10"],
    ["sh", "-c", "sleep 10", "sh"],
    ["sh", "-x", "-c", "sleep 10"],
    ["sh", "-lc", "sleep 10"],
    ["sh", "sleep 10"],
    ["sh", "-c", "sleep", "10"],
    ["/opt/sh", "-c", "sleep 10"],
    ["python", "-c", "sleep 10"],
    ["sh", "-c", "sleep" + " " * 10_000 + "10"],
    ["sleep", *["1"] * 1000],
]
NATIVE = {"pre-stop-existing": "native"}


@pytest.mark.parametrize(("command", "seconds"), MADE_NATIVE)
def test_a_hook_that_does_nothing_but_sleep_becomes_a_native_sleep(
    command: list[str], seconds: int
) -> None:
    """Of the same length, rounded up; and opting out gives the user's hook back."""
    given = deployment(hooked({"exec": {"command": command}}), says=NATIVE)
    decision = decide(given)
    assert hooks(decision.result) == [{"sleep": {"seconds": seconds}}]
    assert grace(decision.result) == 30 + seconds
    assert not codes(decision) - {"long-rollout"}
    assert not complaints(decision.result)
    assert not decide(decision.result, decision.result).operations
    record = record_of(decision.result, template=True)
    assert record is not None
    (entry,) = (each for key, each in record["fields"].items() if key.endswith("preStop"))
    assert entry["was"] == {"exec": {"command": command}}
    left = after(with_settings(decision.result, inject="disabled"), decision.result)
    assert pod_of(left) == pod_of(given)


@pytest.mark.parametrize("command", KEPT_AS_THEY_ARE)
def test_any_other_hook_is_kept_with_a_warning_where_native_is_asked(command: list[str]) -> None:
    """It does more than sleep, or nobody can tell."""
    hook = {"exec": {"command": command}}
    decision = decide(deployment(hooked(hook), says=NATIVE))
    assert hooks(decision.result) == [hook]
    assert grace(decision.result) is None
    assert "hook-kept" in codes(decision)


@pytest.mark.parametrize("hook", [HTTP_HOOK, {}, {"exec": None}, {"exec": {"command": []}}])
def test_a_hook_of_another_kind_is_kept_with_a_warning_where_native_is_asked(hook: Json) -> None:
    """Only exec can be a sleep in disguise; a native sleep is one already, and no matter."""
    decision = decide(deployment(hooked(hook), says=NATIVE))
    assert hooks(decision.result) == [hook]
    assert "hook-kept" in codes(decision)
    own = {"sleep": {"seconds": 5}}
    decision = decide(deployment(hooked(own), says=NATIVE))
    assert hooks(decision.result) == [own]
    assert not decision.alerts


def test_native_takes_no_hook_with_a_field_that_nobody_knows() -> None:
    """It may mean something."""
    for hook in (
        {"exec": {"command": ["sleep", "5"], "newField": 1}},
        {"exec": {"command": ["sleep", "5"]}, "newField": 1},
    ):
        assert hooks(after(deployment(hooked(hook), says=NATIVE))) == [hook]


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_hook_made_native_the_others_sleep_as_ever(kind: str) -> None:
    """The grace period covers the longest."""
    own = hooked({"exec": {"command": ["sleep", "40"]}}, "b")
    result = after(workload(kind, container("a"), own, says=NATIVE))
    assert hooks(result) == [NATIVE_30, {"sleep": {"seconds": 40}}]
    assert grace(result) == 70


SLEEP_40 = {"exec": {"command": ["sleep", "40"]}}


def test_native_is_not_for_servers_that_do_not_know_the_action() -> None:
    """The hook is kept, with a warning."""
    decision = decide(deployment(hooked(SLEEP_40), says=NATIVE), by=admission(server=OLD_SERVER))
    assert hooks(decision.result) == [SLEEP_40]
    assert "hook-kept" in codes(decision)


def test_native_follows_the_sleep_and_its_own_word_counts_alone() -> None:
    """As every setting that modifies another."""
    by = admission({"defaults": NATIVE})
    given = deployment(hooked(SLEEP_40))
    native = [{"sleep": {"seconds": 40}}]
    assert hooks(after(given, by=by)) == native
    assert hooks(after(with_settings(given, pre_stop_sleep="none"), by=by)) == [SLEEP_40]
    assert hooks(after(with_settings(given, pre_stop_sleep="none", **NATIVE))) == native
    at_once = template_changed(given, "terminationGracePeriodSeconds", to=0)
    assert hooks(after(with_settings(at_once, **NATIVE))) == [SLEEP_40]
    listed = with_settings(given, pre_stop_containers="other", **NATIVE)
    assert hooks(after(listed)) == [SLEEP_40]


def test_native_keeps_a_hook_that_max_grace_has_no_room_for() -> None:
    """What the user gave is never cut."""
    says = {**NATIVE, "max-grace": "35s"}
    decision = decide(deployment(hooked(SLEEP_40), says=says))
    assert hooks(decision.result) == [SLEEP_40]
    assert "hook-kept" in codes(decision)
    decision = decide(deployment(hooked(SLEEP_40), says={**NATIVE, "max-grace": "45s"}))
    assert hooks(decision.result) == [{"sleep": {"seconds": 40}}]
    assert grace(decision.result) == 45


def test_a_hook_that_the_user_writes_anew_is_made_native_anew() -> None:
    """A merge puts it beside ours."""
    treated = after(deployment(hooked(SLEEP_40), says=NATIVE))
    merged = {"sleep": {"seconds": 40}, "exec": {"command": ["sleep", "50"]}}
    sent = template_changed(treated, "containers", 0, "lifecycle", "preStop", to=merged)
    result = after(sent, treated)
    assert hooks(result) == [{"sleep": {"seconds": 50}}]
    assert hooks(after(with_settings(result, inject="disabled"), result)) == [
        {"exec": {"command": ["sleep", "50"]}}
    ]


def test_chain_without_a_sleep_does_nothing() -> None:
    """It follows the sleep."""
    given = deployment(hooked(EXEC_QUIT), says={**CHAIN, "pre-stop-sleep": "0"})
    assert hooks(after(given)) == [EXEC_QUIT]


def test_two_containers_of_one_name_never_swap_their_hooks() -> None:
    """The API server refuses them, but files and custom resources may hold them."""
    one, other = ({"exec": {"command": [each]}} for each in ("one", "other"))
    given = workload("Rollout", hooked(one, "app"), hooked(other, "app"), says=CHAIN)
    first, second = hooks(after(given))
    assert first["exec"]["command"][-1] == "one"
    assert second["exec"]["command"][-1] == "other"


@pytest.mark.parametrize(
    ("kind", "cluster", "why"),
    [
        ("Deployment", {"server": (1, 29)}, "the API server is Kubernetes 1.29"),
        ("Deployment", {"oldest_node": (1, 28)}, "a node is Kubernetes 1.28"),
        ("Rollout", {"oldest_node": (1, 29), "server": (1, 33)}, "a node is Kubernetes 1.29"),
        ("Rollout", {"rollout_sleep": False}, "the Rollout CRD has no preStop.sleep"),
        ("Rollout", {"rollout_sleep": True}, None),
        ("Deployment", {"rollout_sleep": False}, None),
        ("StatefulSet", {"server": (1, 30), "oldest_node": (1, 30)}, None),
        ("Rollout", {}, None),
    ],
    ids=str,
)
def test_the_native_sleep_is_used_where_all_can_carry_it(
    kind: str, cluster: Json, why: str | None
) -> None:
    """What is not known forbids nothing, and a warning says which of them did."""
    known = {
        key: ServerVersion(*is_) if isinstance(is_, tuple) else is_ for key, is_ in cluster.items()
    }
    by = admission(**known)
    for handler in ("auto", "sleep"):
        decision = decide(workload(kind, says={"pre-stop-handler": handler}), by=by)
        assert hooks(decision.result) == [EXEC_30 if why else NATIVE_30]
    told = [each.text for each in decision.alerts if each.code == "sleep-too-new"]
    assert bool(told) == bool(why)
    assert all(str(why) in each for each in told)
    windows = workload(kind, pod={"os": {"name": "windows"}})
    assert hooks(decide(windows, by=by).result or windows) == [None if why else NATIVE_30]
