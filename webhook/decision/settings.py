"""What users may set: how a setting is declared and parsed, and how its layers become a policy.

The table itself is gathered from the mutations, each of which declares the settings that it obeys
(`webhook.decision.mutations`): a fact about a setting stands once, beside the code that it steers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from webhook.decision.printable import printable
from webhook.precheck.targets import masked, parse_duration, parse_target

PREFIX: Final = "seamless-rollouts.dev/"
INJECT: Final = "inject"
INJECTED: Final = "injected"
RECORD: Final = PREFIX + INJECTED
NONE: Final = "none"

WORKLOAD: Final = "workload"
POD_TEMPLATE: Final = "pod template"
NAMESPACE: Final = "namespace"
KIND_DEFAULTS: Final = "kind defaults"
CONFIGURATION: Final = "configuration"
BUILT_IN: Final = "built in"

WRITTEN_ON_WORKLOAD: Final = frozenset({WORKLOAD, POD_TEMPLATE})

# Strangers write settings: what is beyond these is told without being read.
LONGEST_VALUE: Final = 4_096
"""Characters of a value."""
MOST_ITEMS: Final = 256
"""Items of a list."""
MOST_SETTINGS: Final = 64
"""Settings on one workload, those on its pod template among them; or on one namespace."""


class InvalidSettingError(ValueError):
    """A value that a setting does not take; the text says what is expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table.

    Args:
        name: what follows the prefix in the annotation.
        parse: text to value; raises `ValueError` with what would be right.
        off: the value that `none` stands for.
        default: the built-in value, as a user would write it.
        takes: the values it takes, for the docs table.
        help: what it does, for the docs table.
        modifies: the setting that this one only modifies, if it does.
        examples: texts that it takes, one of each form; tests and fuzzers draw from them.
        refused: texts that it does not take, likewise.
    """

    name: str
    parse: Callable[[str], Any]
    off: Any
    default: str
    takes: str
    help: str
    modifies: str | None = None
    examples: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A setting that says nothing that we understand.

    `place` is the layer; `path` where in the object it stands; `raw` what it was.
    """

    place: str
    path: str
    name: str
    raw: Any
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self._shown}: {self.expected}"

    @property
    def brief(self) -> str:
        """The same for a warning, which must be short."""
        return f"skipped {self.name} on the {self.place}: {self._shown}: {self.expected}"

    @property
    def _shown(self) -> str:
        if self.name.startswith("precheck") and isinstance(self.raw, str):
            if len(self.raw) > LONGEST_VALUE:  # cut anywhere, it might show a password
                return f'"{_CUT}"'
            return f'"{masked(self.raw)[1:-1]}"'  # a URL's credentials
        return _shown(self.raw)


@dataclass(frozen=True, slots=True)
class Layer:
    """What one object says: settings by name, whether to inject, and what was wrong."""

    values: Mapping[str, Any] = field(default_factory=dict)
    inject: bool | None = None
    problems: tuple[Problem, ...] = ()


EMPTY: Final = Layer()


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is known of a namespace: its name and what it says."""

    name: str
    layer: Layer = EMPTY


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting's value and the layer that it comes from."""

    value: Any
    source: str

    @property
    def written(self) -> bool:
        """Whether it is written on the workload or its template, not inherited."""
        return self.source in WRITTEN_ON_WORKLOAD


# --- parsers -------------------------------------------------------------------------------------


def duration(text: str) -> int:
    """Parse `30`, `30s`, `2m`, `1m30s` into whole seconds, at most an hour."""
    return parse_duration(text)


LONGEST_SHUTDOWN: Final = 24 * 3600
"""Seconds; databases and brokers may take hours to leave."""


def shutdown_duration(text: str) -> int:
    """Parse a duration that may be as long as a day."""
    return parse_duration(text, LONGEST_SHUTDOWN)


def words(text: str) -> tuple[str, ...]:
    """Split a list at commas and white space; its order is kept, what comes twice counts once."""
    written = _BETWEEN.split(text.strip(_SEPARATORS), maxsplit=MOST_ITEMS)
    if len(written) > MOST_ITEMS:
        message = f"expected a list of at most {MOST_ITEMS} items"
        raise InvalidSettingError(message)
    found = tuple(dict.fromkeys(written))
    if found == ("",):
        message = "expected at least one name"
        raise InvalidSettingError(message)
    return found


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that takes one of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            message = f"expected {_either(choices)}"
            raise InvalidSettingError(message)
        return text

    return parse


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def is_label(text: str) -> bool:
    """Tell whether a text is a DNS-1123 label of at most 63 characters."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Tell whether a text is a DNS-1123 subdomain, as names of objects are."""
    return _SUBDOMAIN.fullmatch(text) is not None


def is_qualified_name(text: str) -> bool:
    """Tell whether a text is a qualified name (`[prefix/]name`), as condition types must be."""
    prefix, slash, name = text.rpartition("/")
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        return False
    return _QUALIFIED.fullmatch(name) is not None


def container_names(text: str) -> tuple[str, ...]:
    """Parse a list of container names."""
    return _checked(words(text), is_label, "container names: lower-case letters, digits and '-'")


def condition_types(text: str) -> tuple[str, ...]:
    """Parse a list of pod condition types."""
    return _checked(words(text), is_qualified_name, "condition types such as example.com/ready")


def targets(text: str) -> tuple[str, ...]:
    """Parse a list of precheck targets; those that mean the same count once."""
    return tuple(each.text for each in dict.fromkeys(map(parse_target, words(text))))


def _checked(found: tuple[str, ...], good: Callable[[str], bool], expected: str) -> tuple[str, ...]:
    for word in found:
        if not good(word):
            message = f"{_shown(word)} is not one of: {expected}"
            raise InvalidSettingError(message)
    return found


# --- layers --------------------------------------------------------------------------------------


class Table(Mapping[str, Setting]):
    """All settings by name, in the order of the docs."""

    def __init__(self, settings: Iterable[Setting]) -> None:
        self._settings = {setting.name: setting for setting in settings}
        self._parse = lru_cache(maxsize=2048)(self._parse_text)
        self.built_in = {s.name: self.parse(s.name, s.default) for s in self._settings.values()}

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def __iter__(self) -> Any:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def parse(self, name: str, text: str) -> Any:
        """Parse a setting's text.

        Raises:
            InvalidSettingError: the text, or the name, is none that we know.
        """
        if len(text) > LONGEST_VALUE:
            message = f"expected at most {LONGEST_VALUE:,} characters, not {len(text):,}"
            raise InvalidSettingError(message)
        outcome = self._parse(name, text) if len(text) <= _CACHED else self._parse_text(name, text)
        if isinstance(outcome, InvalidSettingError):
            raise outcome.with_traceback(None)
        return outcome

    def _parse_text(self, name: str, text: str) -> Any:
        """Give the value, or the error: the cache keeps both."""
        setting = self._settings.get(name)
        if setting is None:
            return InvalidSettingError("there is no setting of this name")
        # A YAML block ends in a new line; and a list of nothing but `none` is none.
        if text.strip(_SEPARATORS if setting.off == () else None) == NONE:
            return setting.off
        try:
            return setting.parse(text)
        except ValueError as error:
            return InvalidSettingError(str(error))

    def _hint(self, name: str) -> str:
        """Guess which setting was meant; nothing where there is one of this name."""
        if name == INJECT or name in self._settings:
            return ""
        close = difflib.get_close_matches(name[:_HINTED_LENGTH], [*self._settings, INJECT], n=1)
        return (
            f"; did you mean {close[0]}?" if close else f"; known are {', '.join(self._settings)}"
        )

    def layer(  # noqa: C901, PLR0912 - read for every request: no call for each annotation
        self, place: str, path: str, labels: Any, annotations: Any, room: int = MOST_SETTINGS
    ) -> Layer:
        """Read what one object says.

        Args:
            place: the layer's name.
            path: where in the object its metadata stands, for messages.
            labels: its labels, or anything else, which then says nothing.
            annotations: its annotations, likewise.
            room: how many settings are read; the first beyond is a problem, the others are passed
                over. `inject` is always read.
        """
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        choices: list[bool] = []
        full = False
        for kind, entries in (("labels", labels), ("annotations", annotations)):
            if not isinstance(entries, dict):
                continue
            for key, raw in entries.items():
                if not key.startswith(PREFIX):
                    continue
                name = key[len(PREFIX) :]
                if name == INJECTED or raw is None:
                    continue
                if len(values) + len(problems) >= room and name != INJECT:
                    if not full:
                        full = True
                        problems.append(_problem(place, path, kind, key, raw, _TOO_MANY))
                    continue
                try:
                    value = self._value(place, kind, name, raw)
                except InvalidSettingError as error:
                    expected = str(error)
                    if len(problems) < _HINTED:
                        expected += self._hint(name)
                    problems.append(_problem(place, path, kind, key, raw, expected))
                else:
                    if name == INJECT:
                        choices.append(value)
                    else:
                        values[name] = value
        if not (values or problems or choices):
            return EMPTY
        return Layer(values, all(choices) if choices else None, tuple(problems))

    def _value(self, place: str, kind: str, name: str, raw: Any) -> Any:
        if place == NAMESPACE and (name == INJECT) != (kind == "labels"):
            what = "a label" if name == INJECT else "an annotation"
            message = f"on a namespace, this is {what}"
            raise InvalidSettingError(message)
        if name == INJECT:
            if raw == "enabled":
                return True
            if raw == "disabled":
                return False
            message = "expected enabled or disabled"
            raise InvalidSettingError(message)
        if kind == "labels":
            message = "settings are annotations, not labels"
            raise InvalidSettingError(message)
        if not isinstance(raw, str):
            message = "annotations are strings: put it in quotes"
            raise InvalidSettingError(message)
        return self.parse(name, raw)

    def namespace(self, name: str, labels: Any, annotations: Any) -> Namespace:
        """Read what a namespace says."""
        return Namespace(name, self.layer(NAMESPACE, "metadata", labels, annotations))

    def defaults(self, texts: Mapping[str, str], where: str = "defaults") -> Mapping[str, Any]:
        """Parse the configuration's defaults, those of one kind of workload among them.

        Args:
            texts: settings by name, as a user would write them.
            where: the key that they stand under, for messages.

        Raises:
            InvalidSettingError: naming the setting, its value, and what is expected.
        """
        parsed = {}
        for name, text in texts.items():
            try:
                parsed[name] = self.parse(name, text)
            except InvalidSettingError as error:
                message = f"{where}.{name}: {_shown(text)}: {error}{self._hint(name)}"
                raise InvalidSettingError(message) from None
        return parsed


def _problem(place: str, path: str, kind: str, key: str, raw: Any, expected: str) -> Problem:
    if len(key) > _LONGEST_KEY:
        key = key[:_LONGEST_KEY] + _CUT
    if not key.isprintable():
        key = ascii(key)[1:-1]
    return Problem(place, f'{path}.{kind}["{key}"]', key[len(PREFIX) :], raw, expected)


_TOO_MANY: Final = (
    f"expected at most {MOST_SETTINGS} settings: neither this one nor others are read"
)
_SEPARATORS: Final = ", \t\r\n"
_BETWEEN: Final = re.compile(r"[,\s]+")
_CACHED: Final = 256
_HINTED: Final = 10  # a guess at what was meant costs more than all else: not for thousands
_HINTED_LENGTH: Final = 63
_LONGEST_KEY: Final = len(PREFIX) + _HINTED_LENGTH
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"


Policy = Mapping[str, Resolved]
"""The settings that hold for one workload, by name: every one of the table."""


BUILT_IN_KIND_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    # A minute a node helps nobody, and takes hours where there are many.
    "DaemonSet": {"min-ready": NONE},
}
"""What is built in for one kind alone; it stands above the configuration's `defaults`."""


class Policies:
    """Makes policies of layers.

    Settings come by falling precedence from the workload, its pod template, its namespace, the
    configuration (what it says of the kind, then of all) and what is built in. What is inherited
    holds for workloads that serve traffic, except that a setting which only modifies another
    follows that one.

    Args:
        table: the settings.
        defaults: the configuration's.
        kind_defaults: the same for single kinds, by the kind's name.

    Raises:
        InvalidSettingError: naming the setting, its value, and what is expected.
    """

    def __init__(
        self,
        table: Table,
        defaults: Mapping[str, str],
        kind_defaults: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._table = table
        self._inherited = {name: Resolved(table.built_in[name], BUILT_IN) for name in table}
        for name, value in table.defaults(defaults).items():
            self._inherited[name] = Resolved(value, CONFIGURATION)
        self._own = self._modifiers(self._inherited)
        self._inherited_of: dict[str, dict[str, Resolved]] = {}
        self._own_of: dict[str, dict[str, Resolved]] = {}
        for kind in dict.fromkeys([*BUILT_IN_KIND_DEFAULTS, *kind_defaults]):
            built_in = BUILT_IN_KIND_DEFAULTS.get(kind, {})
            inherited = self._inherited.copy()
            for texts, source in (
                ({name: text for name, text in built_in.items() if name in table}, BUILT_IN),
                (kind_defaults.get(kind, {}), KIND_DEFAULTS),
            ):
                for name, value in table.defaults(texts, f"kindDefaults.{kind}").items():
                    inherited[name] = Resolved(value, source)
            self._inherited_of[kind] = inherited
            self._own_of[kind] = self._modifiers(inherited)

    def _modifiers(self, inherited: Mapping[str, Resolved]) -> dict[str, Resolved]:
        """Give what a workload that inherits nothing starts from: what modifies its settings."""
        table = self._table
        return {
            name: each if table[name].modifies else Resolved(table[name].off, BUILT_IN)
            for name, each in inherited.items()
        }

    def policy(
        self, kind: str, above: Layer, below: Layer, namespace: Namespace | None, *, inherits: bool
    ) -> Policy:
        """Resolve every setting of a workload with the layers `above` (its own) and `below`."""
        if inherits:
            policy = self._inherited_of.get(kind, self._inherited).copy()
        else:
            policy = self._own_of.get(kind, self._own).copy()
        if namespace is not None:
            for name, value in namespace.layer.values.items():
                if inherits or self._table[name].modifies:
                    policy[name] = Resolved(value, NAMESPACE)
        for source, layer in ((POD_TEMPLATE, below), (WORKLOAD, above)):
            for name, value in layer.values.items():
                policy[name] = Resolved(value, source)
        return policy


def _either(choices: tuple[str, ...]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def _shown(raw: Any) -> str:
    """Show a value in a message: quoted, on one line, and not without end."""
    if isinstance(raw, str):
        text = f'"{ascii(raw[: _SHOWN + 1])[1:-1]}"'
    elif isinstance(raw, dict | list):  # whatever is in there
        text = "a mapping" if isinstance(raw, dict) else "a list"
    else:
        text = ascii(raw)
    text = printable(text)  # which commands of CI systems are, too
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + _CUT


_SHOWN: Final = 64
