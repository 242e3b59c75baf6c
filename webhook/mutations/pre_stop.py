"""A pod goes on serving while the cluster still sends it requests.

Each regular container that has no preStop hook gets one that sleeps, so that SIGTERM comes only
when endpoints have gone from every node. A hook that the user wrote is the user's, a sleep of zero
seconds included; with `pre-stop-existing: chain` an exec hook runs after the sleep. Only
`lifecycle.preStop` is written. A workload with the strategy Recreate is not given an inherited
sleep, since its pods go all at once and the sleep would only lengthen the outage.
"""

from __future__ import annotations

from typing import Any, Final

from webhook.draft import KEEP, NOTHING, Draft, Field, Injection, identical
from webhook.mutations.model import Mutation, Situation, no_native_sleep
from webhook.settings import Setting, container_names, duration, one_of
from webhook.workload import containers, is_windows, pre_stop, strategy_type


def _release(current: Any, injection: Injection) -> Any:
    """Take our handler out; what a merge has put beside it is the user's hook."""
    if not isinstance(current, dict):
        return KEEP
    ours = injection.value
    if any(key not in current or not identical(current[key], ours[key]) for key in ours):
        return KEEP
    theirs = {key: value for key, value in current.items() if key not in ours}
    return theirs or injection.was


def _plausible(value: Any, was: Any) -> bool:
    """Only an exec hook is ever chained, so only an exec hook can have been there before."""
    if not isinstance(value, dict) or set(value) not in ({"exec"}, {"sleep"}):
        return False
    return was in NOTHING or (isinstance(was, dict) and _runnable(was))


def _runnable(hook: dict[str, Any]) -> bool:
    handler = hook.get("exec")
    command = handler.get("command") if isinstance(handler, dict) else None
    return (
        len(hook) == 1
        and isinstance(command, list)
        and bool(command)
        and all(isinstance(word, str) for word in command)
    )


PRE_STOP: Final = Field(
    ("spec", "containers", "*", "lifecycle", "preStop"),
    "pre-stop-sleep",
    makes=1,
    release=_release,
    plausible=_plausible,
)


def wanted_sleep(draft: Draft, situation: Situation) -> int:
    """Give the seconds to sleep, 0 for no hook of ours."""
    sleep = situation["pre-stop-sleep"]
    if not sleep.written and strategy_type(situation.kind, draft.root) == "Recreate":
        return 0
    return int(sleep.value)


def apply(draft: Draft, situation: Situation) -> None:
    """Inject or chain the sleep."""
    seconds = wanted_sleep(draft, situation)
    if not seconds:
        return
    chain = situation["pre-stop-existing"].value == "chain"
    windows = is_windows(draft.root)
    names: set[str] = set()
    # A name that comes twice is invalid, and a record could not tell whose hook is whose.
    twice: set[str] = set()
    for container in containers(draft.root):
        name = container["name"]
        (twice if name in names else names).add(name)
    chosen = situation["pre-stop-containers"].value
    wanted = names.intersection(chosen) if chosen else names
    bare = []
    for container in containers(draft.root):
        name = container["name"]
        if name in wanted and name not in twice:
            existing = pre_stop(container)
            if existing is None:
                bare.append(name)
            elif chain:
                _chain(draft, name, existing, seconds, windows=windows)
    hook = _hook(draft, situation, seconds, windows=windows) if bare else None
    for name in bare if hook else ():
        draft.inject(PRE_STOP, hook, name=name)
    for name in chosen:
        if name not in names:
            draft.alert("no-such-container", f"pre-stop-containers: there is no container {name}")


def _hook(
    draft: Draft, situation: Situation, seconds: int, *, windows: bool
) -> dict[str, Any] | None:
    handler = situation["pre-stop-handler"].value
    forbids = no_native_sleep(situation.cluster, situation.kind)
    if windows:
        if forbids:
            draft.alert("no-sleep-on-windows", f"no preStop sleep on Windows: {forbids}")
            return None
        if handler == "exec":
            draft.alert("exec-on-windows", "pre-stop-handler: exec has no sleep on Windows: native")
        handler = "sleep"
    elif forbids:
        if handler == "sleep":
            draft.alert("sleep-too-new", f"pre-stop-handler: exec is used: {forbids}")
        handler = "exec"
    if handler == "exec":
        draft.alert("exec-sleep", "the preStop exec sleep does nothing in an image without `sleep`")
        return {"exec": {"command": ["sleep", str(seconds)]}}
    return {"sleep": {"seconds": seconds}}


def _chain(
    draft: Draft, name: str, existing: dict[str, Any], seconds: int, *, windows: bool
) -> None:
    if windows or not _runnable(existing):
        why = "on Windows" if windows else "only exec can be chained"
        draft.alert("hook-kept", f"the preStop hook of {name} is kept: {why}")
        return
    # The user's words stay arguments of their own: the shell never parses them.
    command = ["sh", "-c", f'sleep {seconds}; exec "$@"', "sh", *existing["exec"]["command"]]
    draft.inject(PRE_STOP, {"exec": {"command": command}}, name=name)
    draft.alert("chain-needs-shell", f"the chained preStop hook of {name} needs sh in its image")


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(PRE_STOP,),
    settings=(
        Setting(
            "pre-stop-sleep",
            duration,
            off=0,
            default="30s",
            takes="duration, `0` = none",
            help="adds a preStop sleep to each regular container that has no preStop",
        ),
        Setting(
            "pre-stop-handler",
            one_of("auto", "sleep", "exec"),
            off="auto",
            default="auto",
            takes="`auto` `sleep` `exec`",
            help="the native `sleep` action where API server and nodes are 1.30 or newer (or "
            "unknown), and for a Rollout where its CRD has it; else `exec: [sleep, N]`",
            modifies="pre-stop-sleep",
        ),
        Setting(
            "pre-stop-containers",
            container_names,
            off=(),
            default="none",
            takes="container names",
            help="which containers; all regular ones where not set",
            modifies="pre-stop-sleep",
        ),
        Setting(
            "pre-stop-existing",
            one_of("keep", "chain"),
            off="keep",
            default="keep",
            takes="`keep` `chain`",
            help="what happens to a preStop that the user wrote: kept, or (exec only) run after "
            "the sleep",
            modifies="pre-stop-sleep",
        ),
    ),
)
