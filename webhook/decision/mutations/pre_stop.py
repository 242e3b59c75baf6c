"""A pod goes on serving while the cluster still sends it requests.

Each regular container that has no preStop hook gets one that sleeps, so that SIGTERM comes only
when endpoints have gone from every node. A hook that the user wrote is the user's, a sleep of zero
seconds included; with `pre-stop-existing: chain` an exec hook runs after the sleep, and with
`native` one that does nothing but sleep becomes a native sleep of the same length. Only
`lifecycle.preStop` is written. An inherited sleep is not given where old and new pods never overlap
(it would only lengthen the outage), nor where the user gave a grace period of 0: no hooks, go at
once. Where the sleep and the time after it are longer than `max-grace`, the sleep is cut.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from webhook.decision.draft import KEEP, NAMED, NOTHING, Draft, Field, Injection, identical
from webhook.decision.mutations.model import (
    Mutation,
    PreStopSleep,
    Situation,
    no_native_sleep,
    publish_sleep,
)
from webhook.decision.outcomes import WarningCode
from webhook.decision.settings import Setting, container_names, duration, one_of
from webhook.decision.workload import (
    containers,
    given_grace_seconds,
    grace_seconds,
    is_windows,
    longest_native_sleep,
    never_overlaps,
    pre_stop,
    why_no_surge,
)


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


_KEY_END: Final = PRE_STOP.pattern.partition(NAMED)[2]


def _wanted(draft: Draft, situation: Situation) -> int:
    """Give the seconds to sleep before `max-grace` cuts them, 0 for no hook of ours."""
    sleep = situation["pre-stop-sleep"]
    seconds = int(sleep.value)
    if not seconds or sleep.written:
        return seconds
    if given_grace_seconds(draft.root) == 0:
        return 0
    if never_overlaps(situation.kind, draft.root) and not _will_surge(draft, situation):
        return 0
    return seconds


def _will_surge(draft: Draft, situation: Situation) -> bool:
    """Tell whether the strategy becomes one where a new pod comes before an old one goes."""
    surges: bool = situation["strategy"].value == "surge"
    return surges and why_no_surge(situation.kind, draft.root) is None


def _time_to_stop(draft: Draft, situation: Situation) -> int:
    """Give the seconds that the application has after the sleep."""
    shutdown = situation["shutdown-time"].value
    return grace_seconds(draft.root) if shutdown is None else int(shutdown)


def apply(draft: Draft, situation: Situation) -> None:
    """Inject or chain the sleep, or put a native one in place of the user's; publish it."""
    seconds = _wanted(draft, situation)
    _apply(draft, situation, seconds)
    publish_sleep(draft, PreStopSleep(seconds, _injected(draft, situation)))


def _apply(draft: Draft, situation: Situation, seconds: int) -> None:
    existing = situation["pre-stop-existing"]
    chain = existing.value == "chain" and seconds > 0
    # What is inherited follows the sleep that it modifies; what is written always applies.
    native = existing.value == "native" and (
        seconds > 0 or (existing.written and given_grace_seconds(draft.root) != 0)
    )
    if not (seconds or native):
        return
    windows = chain and is_windows(draft.root)
    bare: list[str] = []
    chained: list[tuple[str, list[str]]] = []
    for name, hook in _chosen(draft, situation):
        if hook is None:
            bare.append(name)
        elif native:
            _make_native(draft, situation, name, hook)
        elif chain and (windows or not _runnable(hook)):
            why = "on Windows" if windows else "only exec can be chained"
            draft.alert(WarningCode.HOOK_KEPT, f"the preStop hook of {name} is kept: {why}")
        elif chain:
            chained.append((name, hook["exec"]["command"]))
    if seconds and (bare or chained):
        seconds = _within_max_grace(draft, situation, seconds)
    if not seconds:
        return
    for name, command in chained:
        _chain(draft, name, command, seconds)
    handler = _hook(draft, situation, seconds) if bare else None
    for name in bare if handler else ():
        draft.inject(PRE_STOP, handler, name=name)


def _chosen(draft: Draft, situation: Situation) -> list[tuple[str, dict[str, Any] | None]]:
    """Name the containers that are meant, each with the hook that the user gave it."""
    names: set[str] = set()
    # A name that comes twice is invalid, and a record could not tell whose hook is whose.
    twice: set[str] = set()
    for container in containers(draft.root):
        name = container["name"]
        (twice if name in names else names).add(name)
    chosen = situation["pre-stop-containers"].value
    for name in chosen:
        if name not in names:
            draft.alert(
                WarningCode.NO_SUCH_CONTAINER, f"pre-stop-containers: there is no container {name}"
            )
    wanted = names.intersection(chosen) if chosen else names
    return [
        (container["name"], pre_stop(container))
        for container in containers(draft.root)
        if container["name"] in wanted and container["name"] not in twice
    ]


def _within_max_grace(draft: Draft, situation: Situation, seconds: int) -> int:
    """Cut the sleep by what the grace period would be longer than `max-grace`."""
    most: int | None = situation["max-grace"].value
    if most is None:
        return seconds
    longest = max(seconds, longest_native_sleep(draft.root))
    excess = longest + _time_to_stop(draft, situation) - most
    if excess <= 0:
        return seconds
    left = max(0, seconds - excess)
    text = (
        f"cuts the preStop sleep from {seconds} to {left} s" if left else "leaves no preStop sleep"
    )
    draft.alert(WarningCode.MAX_GRACE, f"max-grace of {most} s {text}")
    return left


def _injected(draft: Draft, situation: Situation) -> int | None:
    """Give the seconds of the longest sleep that was injected or chained; None where none was."""
    alike = situation["pre-stop-existing"].value == "keep"
    longest: int | None = None
    for key, entry in draft.records[True].items():
        if not key.endswith(_KEY_END):
            continue
        seconds = _slept(entry["is"])
        if alike:
            return seconds
        longest = seconds if longest is None or seconds > longest else longest
    return longest


def _slept(ours: dict[str, Any]) -> int:
    """Give the seconds of a hook that we wrote."""
    if "sleep" in ours:
        return int(ours["sleep"]["seconds"])
    command: list[str] = ours["exec"]["command"]
    return int(command[1] if command[0] == "sleep" else command[2][len("sleep ") :].split(";")[0])


def _hook(draft: Draft, situation: Situation, seconds: int) -> dict[str, Any] | None:
    handler = situation["pre-stop-handler"].value
    forbids = no_native_sleep(situation.cluster, situation.kind)
    if handler != "exec" and not forbids:
        return {"sleep": {"seconds": seconds}}
    if is_windows(draft.root):
        if forbids:
            draft.alert(WarningCode.NO_SLEEP_ON_WINDOWS, f"no preStop sleep on Windows: {forbids}")
            return None
        draft.alert(
            WarningCode.EXEC_ON_WINDOWS, "pre-stop-handler: exec has no sleep on Windows: native"
        )
        return {"sleep": {"seconds": seconds}}
    if handler == "sleep":
        draft.alert(WarningCode.SLEEP_TOO_NEW, f"pre-stop-handler: exec is used: {forbids}")
    draft.alert(
        WarningCode.EXEC_SLEEP, "the preStop exec sleep does nothing in an image without `sleep`"
    )
    return {"exec": {"command": ["sleep", str(seconds)]}}


def _chain(draft: Draft, name: str, user_s: list[str], seconds: int) -> None:
    # The user's words stay arguments of their own: the shell never parses them.
    command = ["sh", "-c", f'sleep {seconds}; exec "$@"', "sh", *user_s]
    draft.inject(PRE_STOP, {"exec": {"command": command}}, name=name)
    draft.alert(
        WarningCode.CHAIN_NEEDS_SHELL, f"the chained preStop hook of {name} needs sh in its image"
    )


# --- native --------------------------------------------------------------------------------------

_SLEEPS: Final = ("sleep", "/bin/sleep")
_SHELLS: Final = frozenset(
    folder + name
    for folder in ("", "/bin/", "/usr/bin/", "/usr/local/bin/")
    for name in ("sh", "ash", "bash", "dash", "ksh", "zsh")
)
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_WORDS: Final = 16
_LONGEST_SCRIPT: Final = 256


def sleep_seconds(hook: dict[str, Any]) -> int | None:
    """Tell how long a hook sleeps that does nothing else; None for any other.

    That is `sleep N`, by this name or as `/bin/sleep`, alone or as all that a shell is given.
    Several times add up, and their sum is rounded up.
    """
    if not _runnable(hook) or len(hook["exec"]) != 1:
        return None
    words: list[str] = hook["exec"]["command"]
    if len(words) == len(("sh", "-c", "sleep 1")) and words[0] in _SHELLS and words[1] == "-c":
        script = words[2]
        # Within it, a new line would end the command.
        if len(script) > _LONGEST_SCRIPT or "\n" in script.strip(" \t\n"):
            return None
        words = re.split(r"[ \t]+", script.strip(" \t\n"))
    if not 1 < len(words) <= _MOST_WORDS or words[0] not in _SLEEPS:
        return None
    total = Decimal(0)
    for word in words[1:]:
        found = _TIME.fullmatch(word)
        if found is None:
            return None
        total += Decimal(found[1]) * _UNITS[found[2]]
    return int(total.to_integral_value(ROUND_CEILING))


def _make_native(draft: Draft, situation: Situation, name: str, hook: dict[str, Any]) -> None:
    """Put a native sleep in place of a hook that does nothing but sleep."""
    if "sleep" in hook:
        return  # it is one
    seconds = sleep_seconds(hook)
    most = situation["max-grace"].value
    forbids = no_native_sleep(situation.cluster, situation.kind)
    if not seconds:
        why = "it does more than sleep" if seconds is None else "it sleeps no time"
    elif forbids:
        why = forbids
    elif most is not None and seconds > max(most, grace_seconds(draft.root)):
        why = f"it sleeps {seconds} s, max-grace is {most}"
    else:
        draft.inject(PRE_STOP, {"sleep": {"seconds": seconds}}, name=name)
        return
    draft.alert(WarningCode.HOOK_KEPT, f"the preStop hook of {name} is kept: {why}")


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
            examples=("0", "2", "22s", "1m2s"),
            refused=("30 s", "1h1s", "-1"),
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
            examples=("auto", "sleep", "exec"),
            refused=("Sleep",),
        ),
        Setting(
            "pre-stop-containers",
            container_names,
            off=(),
            default="none",
            takes="container names",
            help="which containers; all regular ones where not set",
            modifies="pre-stop-sleep",
            examples=("app", "db, web-1 gone"),
            refused=("App", "a_b"),
        ),
        Setting(
            "pre-stop-existing",
            one_of("keep", "chain", "native"),
            off="keep",
            default="keep",
            takes="`keep` `chain` `native`",
            help="what happens to a preStop that the user wrote: kept; (exec only) run after the "
            "sleep; or, where it does nothing but sleep, made a native sleep of the same length",
            modifies="pre-stop-sleep",
            examples=("keep", "chain", "native"),
            refused=("chained",),
        ),
    ),
)
