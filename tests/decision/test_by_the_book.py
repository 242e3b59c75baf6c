"""The example of CONTRIBUTING.md is a mutation like every other: nothing else knows of it."""

from __future__ import annotations

from tests.builders import (
    Json,
    admission,
    after,
    canonical,
    changed,
    container,
    decide,
    deployment,
    pod_of,
    record_of,
    response,
    with_settings,
)
from tests.decision.apiserver import fill_in
from tests.decision.by_the_book import MUTATION, POLICY
from webhook.decision.mutations import MUTATIONS

BY = admission(mutations=(*MUTATIONS, MUTATION))
AUDIT = admission({"mode": "audit"}, mutations=(*MUTATIONS, MUTATION))
LOGS = "FallbackToLogsOnError"
GIVEN = deployment(container("app"), container("own", terminationMessagePolicy=LOGS))
SENT = with_settings(GIVEN, termination_message="logs")


def policies(workload: Json) -> list[str | None]:
    """Give the policy of each container."""
    return [each.get("terminationMessagePolicy") for each in pod_of(workload)["containers"]]


def test_it_does_what_its_first_lines_say() -> None:
    """Where the setting asks for it; what is chosen already stays."""
    assert policies(after(SENT, None, BY)) == [LOGS, LOGS]
    assert policies(after(GIVEN, None, BY)) == [None, LOGS]
    assert policies(after(with_settings(GIVEN, termination_message="keep"), None, BY)) == [
        None,
        LOGS,
    ]


def test_it_is_recorded_where_it_was_injected_alone() -> None:
    """Its field's pattern, with the container's name."""
    recorded = record_of(after(SENT, None, BY), template=True)
    assert recorded is not None
    assert POLICY.key("app") in recorded["fields"]
    assert POLICY.key("own") not in recorded["fields"]


def test_applied_twice_and_put_without_our_fields_it_changes_nothing() -> None:
    """As the API server stores it, with what it fills in."""
    stored = fill_in(after(SENT, None, BY))
    assert not decide(stored, stored, BY).operations
    put = decide(fill_in(SENT), stored, BY)
    assert not put.restarts
    assert canonical(put.result) == canonical(stored)


def test_a_manifest_that_was_patched_offline_restarts_nothing_when_it_is_sent_again() -> None:
    """Its record says that nothing was there; what is stored says what the API server fills in."""
    offline = fill_in(after(SENT, None, BY))
    stored = fill_in(after(offline, None, BY))
    again = decide(offline, stored, BY)
    assert not again.restarts
    assert fill_in(after(offline, stored, BY)) == stored


def test_opting_out_gives_back_what_the_user_wrote() -> None:
    """Before it was stored, and afterwards."""
    for sent in (SENT, fill_in(SENT)):
        result = after(sent, None, BY)
        left = after(with_settings(result, inject="disabled"), result, BY)
        assert canonical(left) == canonical(with_settings(sent, inject="disabled"))


def test_an_image_that_changes_keeps_it_and_a_setting_that_goes_takes_it_along() -> None:
    """With the next rollout."""
    stored = fill_in(after(SENT, None, BY))
    rolled = changed(stored, "spec", "template", "spec", "containers", 0, "image", to="new:2")
    assert policies(after(rolled, stored, BY)) == [LOGS, LOGS]
    removed = with_settings(stored, termination_message="none")
    assert policies(fill_in(after(removed, stored, BY))) == ["File", LOGS]


def test_audit_mode_only_says_that_it_would() -> None:
    """Nothing is patched."""
    answered = response(SENT, None, AUDIT)
    assert "patch" not in answered
    assert "termination-message" in str(answered["auditAnnotations"])


def test_what_it_takes_and_refuses_is_as_its_examples_say() -> None:
    """And the message says what would be right."""
    (setting,) = MUTATION.settings
    assert setting.examples
    for text in setting.examples:
        assert not decide(with_settings(GIVEN, **{setting.name: text}), None, BY).refused
    for text in setting.refused:
        refused = decide(with_settings(GIVEN, **{setting.name: text}), None, BY).refused
        assert [each.name for each in refused] == [setting.name]
        assert refused[0].expected == "expected keep or logs"
