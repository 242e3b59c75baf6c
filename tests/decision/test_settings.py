"""Contract §2: the settings, their values and their layers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import (
    DEFAULT,
    EXEC_QUIT,
    NATIVE_30,
    Json,
    admission,
    after,
    container,
    decide,
    deployment,
    grace,
    hooks,
    namespaces,
    pod_of,
    rolling,
    with_settings,
    worker,
)
from webhook.decision.settings import InvalidSettingError

NAMES = {
    "pre-stop-sleep": "30s",
    "pre-stop-handler": "auto",
    "pre-stop-containers": "none",
    "pre-stop-existing": "keep",
    "shutdown-time": "none",
    "max-grace": "none",
    "min-ready": "30s",
    "readiness-gates": "none",
    "precheck": "none",
    "precheck-require": "all",
    "precheck-timeout": "10m",
    "precheck-resources": "none",
    "readiness-probe": "none",
    "strategy": "keep",
}
MODIFIERS = {
    "pre-stop-handler": "pre-stop-sleep",
    "pre-stop-containers": "pre-stop-sleep",
    "pre-stop-existing": "pre-stop-sleep",
    "shutdown-time": "pre-stop-sleep",
    "max-grace": "pre-stop-sleep",
    "precheck-require": "precheck",
    "precheck-timeout": "precheck",
    "precheck-resources": "precheck",
}


def test_the_table_has_these_settings_and_built_in_values() -> None:
    """Names are fixed; a new one would be an issue's."""
    assert {name: setting.default for name, setting in DEFAULT.table.items()} == NAMES


def test_these_settings_only_modify_another() -> None:
    """They follow the one that they modify."""
    found = {name: setting.modifies for name, setting in DEFAULT.table.items() if setting.modifies}
    assert found == MODIFIERS


# --- values --------------------------------------------------------------------------------------

DURATIONS = {
    "0": 0,
    "0s": 0,
    "1": 1,
    "30": 30,
    "30s": 30,
    "2m": 120,
    "1m30s": 90,
    "60m": 3600,
    "1h": 3600,
    "3600": 3600,
    "3600s": 3600,
}
TOO_LONG_FOR_MOST = {"1h1s": 3601, "61m": 3660, "3601": 3601, "24h": 86400, "1440m": 86400}
NO_DURATIONS = [
    "",
    " ",
    "s",
    "m",
    "-1",
    "-5s",
    "+5",
    "1.5s",
    "1.0",
    "1e2",
    "30 s",
    " 30s",
    "30s ",
    "30ms",
    "1d",
    "24h1s",
    "25h",
    "86401",
    "30s1m",
    "30s30s",
    "٣٠",
    "30S",
    "0x10",
    "1_0",
    "thirty",
    "None",
    "off",
    "9" * 400,
    "%d",
    "30\n",
    "30\x00",
]
UP_TO_AN_HOUR = ["pre-stop-sleep", "min-ready", "precheck-timeout"]
UP_TO_A_DAY = ["shutdown-time", "max-grace"]
OF_DURATION = UP_TO_AN_HOUR + UP_TO_A_DAY


@pytest.mark.parametrize("name", OF_DURATION)
@pytest.mark.parametrize("text", DURATIONS)
def test_a_duration_is_whole_seconds_at_most_an_hour(name: str, text: str) -> None:
    """`30`, `30s`, `2m`, `1m30s`."""
    assert DEFAULT.table.parse(name, text) == DURATIONS[text]


@pytest.mark.parametrize("name", OF_DURATION)
@pytest.mark.parametrize("text", NO_DURATIONS)
def test_anything_else_is_no_duration(name: str, text: str) -> None:
    """The error is a line that says what is expected."""
    with pytest.raises(InvalidSettingError) as raised:
        DEFAULT.table.parse(name, text)
    assert "\n" not in str(raised.value)
    decision = decide(deployment(says={name: text}))
    assert len(decision.refused) == 1


@pytest.mark.parametrize("text", TOO_LONG_FOR_MOST)
def test_an_application_may_take_a_day_to_stop_and_all_else_an_hour(text: str) -> None:
    """The refusal says what is the most."""
    for name in UP_TO_A_DAY:
        assert DEFAULT.table.parse(name, text) == TOO_LONG_FOR_MOST[text]
    for name in UP_TO_AN_HOUR:
        with pytest.raises(InvalidSettingError, match="at most 1h"):
            DEFAULT.table.parse(name, text)
    with pytest.raises(InvalidSettingError, match="at most 24h"):
        DEFAULT.table.parse("max-grace", "25h")


BAD = [
    ("pre-stop-handler", "native"),
    ("pre-stop-handler", ""),
    ("pre-stop-handler", "Sleep"),
    ("pre-stop-containers", ""),
    ("pre-stop-containers", " , "),
    ("pre-stop-containers", "App"),
    ("pre-stop-containers", "a/b"),
    ("pre-stop-containers", "a" * 64),
    ("pre-stop-existing", "merge"),
    ("pre-stop-existing", "true"),
    ("readiness-gates", "example.com/"),
    ("readiness-gates", "/ready"),
    ("readiness-gates", "a b/c d/"),
    ("readiness-gates", "example.com/a/b"),
    ("readiness-gates", "Example.com/a"),
    ("readiness-gates", "x" * 64),
    ("precheck", ""),
    ("precheck", "ftp://db"),
    ("precheck", "db:0"),
    ("precheck", "db:65536"),
    ("precheck", "-db"),
    ("precheck", "tcp://db"),
    ("precheck", "dns://db:5432"),
    ("precheck", "http://"),
    ("precheck-resources", ""),
    ("precheck-resources", "100m"),
    ("precheck-resources", "100m/"),
    ("precheck-resources", "/64Mi"),
    ("precheck-resources", "64Mi/100m"),
    ("precheck-resources", "100m/64m"),
    ("precheck-resources", "100m/64"),
    ("precheck-resources", "0/64Mi"),
    ("precheck-resources", "0.000/64Mi"),
    ("precheck-resources", "0m/64Mi"),
    ("precheck-resources", "-1/64Mi"),
    ("precheck-resources", "0.0001/64Mi"),
    ("precheck-resources", "100m/64Mi/1"),
    ("precheck-resources", "100m, 64Mi"),
    ("precheck-resources", "100m /64Mi"),
    ("precheck-resources", "100m/64MB"),
    ("precheck-resources", "100m/1e9"),
    ("precheck-require", "0"),
    ("precheck-require", "-1"),
    ("precheck-require", "most"),
    ("precheck-require", "1.5"),
    ("precheck-require", "50%"),
    ("readiness-probe", "8080"),
    ("readiness-probe", "http://host:8080/"),
    ("readiness-probe", "https://:8080/"),
    ("readiness-probe", "http://:0/"),
    ("readiness-probe", "http://:65536/"),
    ("readiness-probe", "tcp://:8080/path"),
    ("readiness-probe", "grpc://:9000/service"),
    ("readiness-probe", "tcp://:"),
    ("readiness-probe", "tcp://:a-name-of-16-char"),
    ("strategy", "Surge"),
    ("strategy", "recreate"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_these_values_are_refused(name: str, text: str) -> None:
    """The refusal names the setting, its value and what would be right."""
    (problem,) = decide(deployment(says={name: text})).refused
    assert name in str(problem)
    assert f'"{text}"'[:20] in str(problem)


GOOD = [
    ("pre-stop-containers", "app,b c\td\n,  e", ("app", "b", "c", "d", "e")),
    ("pre-stop-containers", "app app,app", ("app",)),
    ("readiness-gates", "example.com/ready Ready,a", ("example.com/ready", "Ready", "a")),
    ("precheck", "db dns://db2, tcp://mq:5672", ("db", "dns://db2", "tcp://mq:5672")),
    ("precheck", "https+insecure://api/health?a=b", ("https+insecure://api/health?a=b",)),
    ("precheck-resources", "100m/64Mi", "100m/64Mi"),
    ("precheck-resources", "0.25/128M", "0.25/128M"),
    ("precheck-resources", "2/1Gi", "2/1Gi"),
    ("pre-stop-existing", "native", "native"),
    ("precheck-require", "any", "any"),
    ("precheck-require", "majority", "majority"),
    ("precheck-require", "2", 2),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_lists_are_separated_by_commas_or_white_space(name: str, text: str, value: Any) -> None:
    """Both, and any number of them."""
    assert DEFAULT.table.parse(name, text) == value


@pytest.mark.parametrize("value", [30, True, 1.5, ["30s"], {"a": 1}])
def test_a_value_that_is_no_string_is_refused_with_the_advice_to_quote_it(value: Any) -> None:
    """A YAML file may hold a number; the API server would refuse it less kindly."""
    (problem,) = decide(deployment(says={"min-ready": value})).refused
    assert "min-ready" in str(problem)


def test_a_null_says_nothing() -> None:
    """Nulls may stand anywhere."""
    given = deployment(says={"pre-stop-sleep": None, "inject": None, "unknown": None})
    assert hooks(after(given)) == [NATIVE_30]


# --- layers --------------------------------------------------------------------------------------

LAYERS = ("workload", "template", "namespace", "configuration")


def decided(said: Json, name: str = "pre-stop-sleep") -> Json:
    """Decide with a value of one setting on each of some layers."""
    by = admission(
        {"defaults": {name: said["configuration"]}} if "configuration" in said else {},
        namespace=namespaces(**({name: said["namespace"]} if "namespace" in said else {})),
    )
    given = deployment(
        says={name: said["workload"]} if "workload" in said else None,
        template_says={name: said["template"]} if "template" in said else None,
    )
    return after(given, by=by)


@pytest.mark.parametrize("highest", range(len(LAYERS)))
def test_the_nearest_layer_holds(highest: int) -> None:
    """Workload, pod template, namespace, configuration, built in."""
    said = {layer: f"{11 + at}s" for at, layer in enumerate(LAYERS) if at >= highest}
    assert hooks(decided(said)) == [{"sleep": {"seconds": 11 + highest}}]
    said = dict.fromkeys(LAYERS[highest:], f"{11 + highest}s")
    result = decided(said, "min-ready")
    assert result["spec"]["minReadySeconds"] == 11 + highest


def test_where_no_layer_speaks_the_built_in_value_holds() -> None:
    """30 seconds of each."""
    assert hooks(decided({})) == [NATIVE_30]
    assert decided({}, "min-ready")["spec"]["minReadySeconds"] == 30


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("text", ["none", "0"])
def test_none_and_zero_turn_an_inherited_sleep_off(layer: str, text: str) -> None:
    """At any layer, what lies below it no longer counts."""
    below = LAYERS[LAYERS.index(layer) + 1 :]
    said = {layer: text, **dict.fromkeys(below, "9s")}
    result = decided(said)
    assert hooks(result) == [None]
    assert grace(result) is None
    assert "minReadySeconds" not in decided(said, "min-ready")["spec"]


OFF: list[tuple[str, str, Json]] = [
    ("pre-stop-handler", "exec", {}),
    ("pre-stop-containers", "app", {}),
    ("pre-stop-existing", "chain", {}),
    ("shutdown-time", "90s", {}),
    ("max-grace", "50s", {}),
    ("precheck-resources", "50m/32Mi", {"precheck": "db:5432"}),
    ("readiness-gates", "example.com/ready", {}),
    ("precheck", "db:5432", {}),
    ("precheck-require", "any", {"precheck": "db:5432 mq:5672"}),
    ("readiness-probe", "tcp://:8080", {}),
    ("strategy", "surge", {}),
]


@pytest.mark.parametrize(("name", "value", "more"), OFF)
def test_none_turns_any_inherited_setting_off(name: str, value: str, more: Json) -> None:
    """As if the layers below it had not spoken."""
    by = admission({"defaults": {name: value}})
    containers = (worker(ports=[{"containerPort": 8080}]), container("b"))
    hook = {"lifecycle": {"preStop": EXEC_QUIT}}
    given = deployment(*containers, container("c", **hook), says=more, **rolling(maxUnavailable=2))
    plain = after(given)
    assert after(given, by=by) != plain, "the setting does nothing here"
    off = with_settings(given, **{name: "none"})
    expected = with_settings(plain, **{name: "none"})
    result = after(off, by=by)
    assert result["spec"]["template"] == expected["spec"]["template"]
    assert result["spec"] == expected["spec"]


def test_none_as_the_time_of_a_precheck_means_for_ever() -> None:
    """As `0` does."""
    for text in ("none", "0"):
        given = deployment(says={"precheck": "db:5432", "precheck-timeout": text})
        assert "--timeout=0s" in pod_of(after(given))["initContainers"][0]["args"]


def test_settings_as_labels_are_refused() -> None:
    """`inject` alone may be a label; a setting there would silently do nothing."""
    decision = decide(deployment(labels={"min-ready": "5"}))
    assert decision.refused


@pytest.mark.parametrize("name", ["unknown", "", "min_ready", "Min-Ready", "injekt", "a/b", "🙂"])
def test_an_unknown_setting_under_our_prefix_is_refused(name: str) -> None:
    """On the workload or its template."""
    for place in ("says", "template_says"):
        given = deployment(**{place: {name: "1"}})
        assert len(decide(given).refused) == 1, place


@pytest.mark.parametrize(
    "key",
    [
        "seamless-rollouts.dev",
        "seamless-rollouts.development/min-ready",
        "x.seamless-rollouts.dev/min-ready",
        "example.com/seamless-rollouts.dev",
    ],
)
def test_what_is_not_under_our_prefix_is_not_ours(key: str) -> None:
    """Another's annotations are never judged."""
    decision = decide(deployment(metadata={"annotations": {key: "bad"}}))
    assert not decision.refused
    assert not decision.alerts


# --- limits --------------------------------------------------------------------------------------

LISTS = {"pre-stop-containers": "c{}", "readiness-gates": "a.example/g{}", "precheck": "db{}:1"}


@pytest.mark.parametrize("separator", [",", " ", ", ", "\n"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_at_most_256_items(name: str, separator: str) -> None:
    """What comes twice counts."""
    items = [LISTS[name].format(number % 200) for number in range(257)]
    assert len(DEFAULT.table.parse(name, separator.join(items[:256]))) == 200
    with pytest.raises(InvalidSettingError, match="at most 256 items"):
        DEFAULT.table.parse(name, separator.join(items))


@pytest.mark.parametrize("name", NAMES)
def test_a_value_has_at_most_4096_characters(name: str) -> None:
    """One character more is a bad setting, whatever it says."""
    with pytest.raises(InvalidSettingError, match="at most 4,096 characters, not 4,097"):
        DEFAULT.table.parse(name, "none" + " " * 4093)
    decision = decide(deployment(says={name: "none" + " " * 4093}))
    (problem,) = decision.refused
    assert problem.name == name
    assert len(str(problem)) < 400


def test_a_value_of_4096_characters_is_read() -> None:
    """White space around it counts."""
    assert DEFAULT.table.parse("readiness-gates", "a.example/x" + " " * 4085) == ("a.example/x",)
    assert DEFAULT.table.parse("pre-stop-containers", "none" + "," * 4092) == ()


def test_a_password_is_not_shown_of_a_value_that_is_too_long() -> None:
    """Wherever it is cut."""
    for length in (4097, 4100, 100_000):
        secret = f"http://user:secret{'x' * length}@db/"
        (problem,) = decide(deployment(says={"precheck": secret})).refused
        assert "secret" not in str(problem) + problem.brief


def many(count: int, word: str = "s") -> Json:
    """Give as many settings, of which none is known."""
    return {f"{word}{number:03}": "1" for number in range(count)}


def test_a_workload_has_at_most_64_settings_of_ours() -> None:
    """The first beyond is told, the others are passed over."""
    refused = decide(deployment(says=many(80))).refused
    assert len(refused) == 65
    assert "at most 64 settings" in refused[-1].expected
    assert refused[-1].name == "s064"


def test_those_of_the_pod_template_count_with_the_workload_s() -> None:
    """Together."""
    given = deployment(says=many(60), template_says=many(10, "t"))
    refused = decide(given).refused
    assert len(refused) == 65
    assert "at most 64 settings" in refused[-1].expected
    assert refused[-1].path.startswith("spec.template.metadata.annotations")
    assert len(decide(deployment(says=many(32), template_says=many(32, "t"))).refused) == 64


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("template", [False, True])
def test_an_opt_out_is_read_however_many_settings_there_are(
    template: bool,  # noqa: FBT001 - a table's column
    label: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Whatever stands before it."""
    said: Json = {"says": {**many(200), "zz": "1"}, "template_says": many(200)}
    opt_out = {"inject": "disabled"}
    if label:
        said["template_labels" if template else "labels"] = {**many(100), **opt_out}
    else:
        key = "template_says" if template else "says"
        said[key] = {**said[key], **opt_out}
    assert decide(deployment(**said)).skipped == "disabled"


def test_a_setting_beyond_the_limit_is_no_setting() -> None:
    """Where nothing is refused, the next layer holds."""
    lenient = admission({"invalidSettings": "warn"})
    says = {**many(64), "pre-stop-sleep": "7s"}
    assert hooks(decide(deployment(says=says), None, lenient).result) == [NATIVE_30]
    says = {"pre-stop-sleep": "7s", **many(80)}
    assert hooks(decide(deployment(says=says), None, lenient).result) == [{"sleep": {"seconds": 7}}]


def test_a_bad_setting_among_many_is_refused_only_where_this_request_brought_it() -> None:
    """Also where there are hundreds, before and after."""
    lenient = admission({"invalidSettings": "warn"})
    stored = after(deployment(says=many(300)), None, lenient)
    assert decide({**stored, "status": {"replicas": 3}}, stored).refused == ()
    other = after(deployment(says=many(30)), None, lenient)
    refused = decide(with_settings(other, s010="2", new="1"), other).refused
    assert {each.name for each in refused} == {"s010", "new"}


def test_a_namespace_has_at_most_64_settings_too() -> None:
    """Each in its own layer."""
    annotations = {f"seamless-rollouts.dev/{name}": text for name, text in many(90).items()}
    found = DEFAULT.table.namespace("shop", None, annotations)
    assert len(found.layer.problems) == 65


@pytest.mark.parametrize("key", ["x" * 100_000, "\x1b[2J", "\u202eevil", "a\nb"])
def test_the_name_of_a_bad_setting_is_shown_in_short_and_on_one_line(key: str) -> None:
    """An annotation's key is a stranger's text."""
    (problem,) = decide(deployment(says={key: "1"})).refused
    assert str(problem).isprintable()
    assert len(str(problem)) < 600


@pytest.mark.parametrize("raw", [["a"] * 1000, {"a": "b" * 1000}, 5, True, 1.5])
def test_a_value_that_is_no_text_is_told_in_short(raw: Any) -> None:
    """Only a custom resource's template can hold one."""
    (problem,) = decide(deployment(template_says={"min-ready": raw})).refused
    assert len(str(problem)) < 300
