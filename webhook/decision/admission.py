"""The one path from a review to its answer, for HTTP and for the command line alike.

Nothing here reads a clock, the network or the environment: what is decided depends on the review,
on the configuration, and on what the two look-ups say of the namespace and the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from webhook.decision import aws, review, warnings
from webhook.decision.configuration import SYSTEM_NAMESPACES, Configuration, decided_by, digest
from webhook.decision.draft import (
    TEMPLATE,
    Alert,
    AnnotationsFullError,
    Draft,
    Field,
    Operation,
    grafted,
)
from webhook.decision.exclusions import Exclusions
from webhook.decision.mutations import MUTATIONS
from webhook.decision.mutations.model import (
    UNKNOWN_CLUSTER,
    Cluster,
    Mutation,
    PrecheckContainer,
    Situation,
)
from webhook.decision.outcomes import SkipReason, WarningCode
from webhook.decision.partial import OldObject, alike
from webhook.decision.printable import summarise
from webhook.decision.record import NO_RECORD, Ledger, Record
from webhook.decision.review import InvalidReviewError, Request
from webhook.decision.settings import (
    MOST_SETTINGS,
    POD_TEMPLATE,
    WORKLOAD,
    Layer,
    Namespace,
    Policies,
    Problem,
    Table,
)
from webhook.decision.workload import (
    READS,
    Kind,
    containers,
    find_kind,
    malformed,
    mapping,
    serves,
    template,
)

log = logging.getLogger("webhook")

Json = dict[str, Any]

# What decides is told to them, in a dry run: no other client has a use for it.
TOLD_WHAT_DECIDES: Final = frozenset({"seamless-backfill", "seamless-backfill-no-restart"})

# Their requests are decided afresh, pod template included: moving it is what they are for.
DECIDED_AFRESH: Final = frozenset({"seamless-backfill", "seamless-revert"})


class Decision(NamedTuple):
    """What becomes of a request.

    Args:
        operations: the JSON Patch that makes the object what it shall be.
        alerts: what to warn the user of.
        refused: the settings that this request brought and that are invalid.
        applied: the settings whose injections the result bears.
        skipped: why nothing is injected, if nothing is.
        kept: whether the pod template stays as it is in the cluster.
        situation: what it was decided by; none where it was not decided at all.
        result: the object as it shall be.
        old: the object before an UPDATE.
    """

    operations: Sequence[Operation] = ()
    alerts: tuple[Alert, ...] = ()
    refused: tuple[Problem, ...] = ()
    applied: tuple[str, ...] = ()
    skipped: SkipReason | None = None
    kept: bool = False
    situation: Situation | None = None
    result: Json | None = None
    old: OldObject | None = None

    @property
    def restarts(self) -> bool:
        """Whether the pod template changes, so that pods restart; on CREATE there are none."""
        if self.kept or self.old is None or self.result is None:
            return False
        return not alike(template(self.result), self.old.template)

    @property
    def outcome(self) -> str:
        """One word for it: `refused`, `patched`, `unchanged` or `skipped`."""
        if self.refused:
            return "refused"
        if self.operations:
            return "patched"
        return "skipped" if self.skipped else "unchanged"


class Answer(NamedTuple):
    """What goes back over HTTP, and what happened, for those who count."""

    status: int
    body: bytes
    request: Request | None = None
    decision: Decision | None = None
    audited: bool = False

    @property
    def outcome(self) -> str:
        """One word for it: the decision's, or `audited` where that would have been `patched`."""
        outcome = self.decision.outcome if self.decision else "invalid"
        return "audited" if self.audited and outcome == "patched" else outcome


_TOLD: Final = 10

NoNamespace: Final[Callable[[str], Namespace | None]] = lambda _name: None  # noqa: E731 - a default
UnknownCluster: Final[Callable[[], Cluster]] = lambda: UNKNOWN_CLUSTER  # noqa: E731 - a default


class Admission:
    """Decides reviews under one configuration.

    Args:
        configuration: the file's content.
        namespaces: looks a namespace up by name; `None` for one that is not known, which then
            counts as selected and says nothing.
        cluster: tells what the API server, the nodes and the CRD of Argo Rollouts can carry.
        own_namespace: the namespace that the webhook runs in, which is never touched.
        mutations: what may be done to a workload, in order.

    Raises:
        InvalidSettingError: the configuration's `defaults` or `kindDefaults` do not parse.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        namespaces: Callable[[str], Namespace | None] = NoNamespace,
        cluster: Callable[[], Cluster] = UnknownCluster,
        own_namespace: str | None = None,
        mutations: Iterable[Mutation] = MUTATIONS,
    ) -> None:
        self.configuration = configuration
        self.digest = digest(configuration)
        self.namespaces = namespaces
        self.cluster = cluster
        self.mutations = tuple(mutations)
        self.table = Table(setting for each in self.mutations for setting in each.settings)
        self._names = tuple(self.table)
        self.ledger = Ledger(place for each in self.mutations for place in each.fields)
        self._decoder = review.decoder(
            frozenset(
                [
                    *READS,
                    *warnings.READS,
                    *(path for each in self.mutations for path in each.reads),
                    *(field.full_path for each in self.mutations for field in each.fields),
                ]
            )
        )
        self._in_template = frozenset(
            setting.name for each in self.mutations if each.in_template for setting in each.settings
        )
        self._policies = Policies(
            self.table,
            configuration.defaults,
            {str(kind): texts for kind, texts in configuration.kind_defaults.items()},
        )
        never = [*SYSTEM_NAMESPACES, *configuration.excluded_namespaces]
        self._excluded = Exclusions(
            [*never, own_namespace] if own_namespace else never,
            [each.pattern for each in configuration.exclude],
        )
        self._precheck = PrecheckContainer(
            configuration.precheck.image,
            configuration.precheck.image_pull_policy,
            configuration.precheck.run_as_user,
            configuration.precheck.resources.model_dump(exclude_none=True),
        )

    def decode(self, body: bytes) -> Request:
        """Read a review, and of its objects what the mutations and this path declare to read.

        Raises:
            InvalidReviewError: the body is no AdmissionReview.
        """
        return self._decoder.decode(body)

    def answer(self, body: bytes) -> Answer:
        """Answer a review, bytes to bytes.

        An unexpected error discards the whole patch: the request is allowed, with a warning.
        """
        try:
            request = self.decode(body)
        except InvalidReviewError as error:
            return Answer(400, str(error).encode())
        try:
            decision = self.decide(request)
            audited = self.configuration.mode == "audit"
            body = self._encode(request.uid, decision, self._decided_by(request))
            return Answer(200, body, request, decision, audited)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # in what was undecoded
            return Answer(400, str(review.no_json(error)).encode())
        except (RecursionError, orjson.JSONEncodeError):
            decision = _malformed("it is nested too deeply, or holds a number of over 64 bits")
            return Answer(200, self._encode(request.uid, decision), request, decision)
        except Exception:  # the boundary: whatever goes wrong in here must not hurt a deployment
            log.exception("request %s is allowed unpatched: unexpected error", request.uid)
        text = "an unexpected error: allowed, nothing is patched"
        return Answer(
            200,
            review.encode(request.uid, warnings=[text], audit={"skipped": SkipReason.ERROR}),
            request,
            Decision(alerts=(Alert(WarningCode.ERROR, text),), skipped=SkipReason.ERROR),
        )

    def _decided_by(self, request: Request) -> Sequence[str]:
        """Say what decides, to a dry run of ours that asks for it (docs/decisions/0040)."""
        if request.dry_run and request.field_manager in TOLD_WHAT_DECIDES:
            return (decided_by(self.digest),)
        return ()

    def _encode(self, uid: str, decision: Decision, told: Sequence[str] = ()) -> bytes:
        audits = self.configuration.mode == "audit"
        applied = ", ".join(decision.applied)
        skipped: str | None = decision.skipped
        if audits and applied:
            skipped = f"audit mode, would apply: {applied}"
        elif decision.refused:
            skipped = "invalid settings"
        return review.encode(
            uid,
            operations=() if audits else decision.operations,
            warnings=[*told, *(alert.text for alert in decision.alerts)],
            audit={"skipped": skipped} if skipped else {"applied": applied},
            refusal=_told(decision.refused),
        )

    def decide(self, request: Request) -> Decision:
        """Decide what becomes of a request."""
        reason = self._unasked(request)
        if reason:
            return Decision(skipped=reason)
        gvk = request.kind
        if aws.is_namespace(gvk) and self.configuration.aws_readiness_gates:
            return self._decide_namespace(request)
        kind = find_kind(gvk.group or "", gvk.version, gvk.kind)
        if kind is None or kind.name not in self.configuration.kinds:
            return Decision(skipped=SkipReason.KIND)
        if self._excluded.workload(kind.name, request.namespace, request.object):
            return Decision(skipped=SkipReason.EXCLUDED_WORKLOAD)
        complaint = malformed(request.object)
        if complaint:
            return _malformed(complaint)
        if mapping(request.object.get("metadata")).get("deletionTimestamp"):
            return Decision(skipped=SkipReason.DELETING)
        if not (containers(request.object) or _left_alone(request.object)):
            return _malformed("it has no containers")
        return self._decide_case(self._case(request, kind))

    def _unasked(self, request: Request) -> SkipReason | None:
        if request.operation not in {"CREATE", "UPDATE"}:
            return SkipReason.OPERATION
        if request.sub_resource:
            return SkipReason.SUBRESOURCE
        if self._excluded.namespace(request.namespace):
            return SkipReason.EXCLUDED_NAMESPACE
        return None

    def _decide_namespace(self, request: Request) -> Decision:
        if self._excluded.namespace(request.name or request.namespace):
            return Decision(skipped=SkipReason.EXCLUDED_NAMESPACE)
        operations, skipped = aws.label(request.object, self.table, self.configuration.scope)
        applied = () if skipped else (aws.SETTING,)
        return Decision(operations=operations, skipped=skipped, applied=applied)

    # What the user, the namespace and the records say.

    def _case(self, request: Request, kind: Kind) -> _Case:
        workload: Json = request.object
        old = request.old_object if request.operation == "UPDATE" else None
        new_image = old is not None and _runs_other_images(old, workload)
        same_template = False
        if old is not None and not new_image:
            if malformed({"spec": {"template": old.template}}):
                old = None  # the API server has none such
            else:
                same_template = alike(template(workload), old.template)
        namespace = self.namespaces(request.namespace) if request.namespace else None
        own = mapping(workload.get("metadata"))
        of_pods = mapping(template(workload).get("metadata"))
        above, below = self._layers(own, of_pods)
        read = self.ledger.read_from
        of_template = read(of_pods.get("annotations"), in_template=True)
        of_old_template = NO_RECORD
        if old is not None:
            own = old.above
            of_old_template = read(old.below.get("annotations"), in_template=True)
        brings_record = bool(of_template)
        if of_old_template.entries and not of_template:
            # `kubectl apply` takes the annotations away whole, where a manifest has none any more.
            # What still stands as it was injected is ours; what has changed is the user's.
            of_template = of_old_template
        if old is not None and of_template.of_containers:
            of_template = self.ledger.with_moved(of_template, workload, old)
        return _Case(
            request=request,
            kind=kind,
            workload=workload,
            old=old,
            namespace=namespace,
            above=above,
            below=below,
            out_of_scope=_left_alone(workload) or self._out_of_scope(above, below, namespace),
            brings_record=brings_record,
            of_template=of_template,
            of_workload=read(own.get("annotations"), in_template=False),
            of_old_template=of_old_template,
            new_image=new_image,
            same_template=same_template,
        )

    def _layers(self, above: Json, below: Json) -> tuple[Layer, Layer]:
        """Read what the metadata of a workload, and of its pod template, say."""
        layer = self.table.layer
        own = layer(WORKLOAD, "metadata", above.get("labels"), above.get("annotations"))
        room = MOST_SETTINGS - len(own.values) - len(own.problems)
        place = "spec.template.metadata"
        return own, layer(POD_TEMPLATE, place, below.get("labels"), below.get("annotations"), room)

    def _out_of_scope(
        self, above: Layer, below: Layer, namespace: Namespace | None
    ) -> SkipReason | None:
        """Say why a workload is out of scope, if it is; the nearest word counts."""
        inject = above.inject if above.inject is not None else below.inject
        if inject is None and namespace is not None:
            inject = namespace.layer.inject
            if inject is None and self.configuration.scope == "opt-in":
                return SkipReason.NOT_SELECTED
        return SkipReason.DISABLED if inject is False else None

    def _refused(self, case: _Case) -> tuple[Problem, ...]:
        """Find the bad settings that this request brought and that it is refused for."""
        problems = _problems(case.above, case.below)
        settings = self.configuration
        if not problems:
            return ()
        if settings.invalid_settings == "warn" or settings.mode == "audit" or case.out_of_scope:
            return ()
        # A template that this request brings with a record may be a rollback: never in its way.
        if case.brings_record and not case.same_template:
            return ()
        if case.old is None:
            return problems
        before = _problems(*self._layers(case.old.above, case.old.below))
        known = {each.path: each for each in before}
        return tuple(each for each in problems if known.get(each.path) != each)

    # From what the user wrote to what it shall be.

    def _decide_case(self, case: _Case) -> Decision:
        bare = not (case.of_template or case.of_workload or case.of_old_template)
        if case.out_of_scope and bare and not self.ledger.read(case.workload, in_template=False):
            told = _invalid(_problems(case.above, case.below))
            if told and (case.out_of_scope is SkipReason.WORKLOAD_REF or self._says_nothing(case)):
                told = ()
            return Decision(skipped=case.out_of_scope, alerts=told)
        refused = self._refused(case)
        if refused:
            return Decision(refused=refused)
        written = self._draft(case, kept=False)
        kept = self._keeps(case, written.root)
        situation = self._situation(case, written.root)
        skipped = case.out_of_scope
        draft = self._draft(case, kept=True) if kept else written
        self._start(case, draft)
        try:
            self._mutate(draft, situation, apply=not skipped, kept=kept)
        except AnnotationsFullError:
            skipped = SkipReason.ANNOTATIONS_FULL
            draft = self._draft(case, kept=kept)
            self._start(case, draft)
            self._mutate(draft, situation, apply=False, kept=kept)
            text = "nothing is injected: no room for its record in the annotations"
            draft.alert(WarningCode.ANNOTATIONS_FULL, text)
        return self._decision(case, draft, situation, skipped, kept=kept)

    def _keeps(self, case: _Case, written: Json) -> bool:
        """Tell whether the pod template stays as it is: nobody asked for new pods."""
        if case.old is None or case.request.field_manager in DECIDED_AFRESH:
            return False
        if case.out_of_scope is SkipReason.WORKLOAD_REF:
            return False  # no pod is made of its template
        if not (case.same_template or self._same_words(case, written)):
            return False
        above, below = self._layers(case.old.above, case.old.below)
        was_out_of_scope = self._out_of_scope(above, below, case.namespace)
        return (was_out_of_scope is None) == (case.out_of_scope is None) and (
            self._acting(above) == self._acting(case.above)
        )

    def _acting(self, layer: Layer) -> Json:
        """Pick the settings on a workload that act on its pod template."""
        return {name: value for name, value in layer.values.items() if name in self._in_template}

    def _same_words(self, case: _Case, written: Json) -> bool:
        """Tell whether the user's part of a changed pod template is what it was."""
        if case.old is None or case.new_image or not (case.of_template or case.of_old_template):
            return False
        before = Draft({"spec": {"template": case.old.template}})
        self.ledger.take_out(before, case.of_old_template, in_template=True)
        as_stored = self.ledger.as_stored
        return alike(as_stored(template(written)), as_stored(template(before.root)))

    def _says_nothing(self, case: _Case) -> bool:
        """Tell whether an update changes neither the spec nor a setting: who sent it asks nothing.

        Backfill and its like ask what is wrong with a workload as it is.
        """
        if case.old is None or not case.same_template:
            return False
        if case.request.field_manager in DECIDED_AFRESH:
            return False
        above, _ = self._layers(case.old.above, case.old.below)
        return above == case.above and alike(mapping(case.workload.get("spec")), case.old.spec)

    def _undone(self, case: _Case) -> Iterator[Alert]:
        """Tell of edits of what was injected, which a template that stays as it is undoes.

        A template that brings the very record that is in the cluster was made from the one there.
        One without it never had what was injected, and one with another is a rollback.
        """
        if case.old is None or case.same_template or not case.brings_record:
            return
        if self.configuration.mode == "audit":
            return
        if case.of_template.entries != case.of_old_template.entries:
            return
        before = {"spec": {"template": case.old.template}}
        edited = self.ledger.edited(case.of_old_template, before, case.workload)
        for setting, (place, name) in edited.items():
            text = f"an edit was undone: set {setting}: none instead ({place.key(name)})"
            yield Alert(WarningCode.EDIT_UNDONE, text)

    def _situation(self, case: _Case, written: Json) -> Situation:
        above, below = case.above, case.below
        serving = (
            above.inject is True
            or below.inject is True
            or bool(above.values.get("readiness-probe") or below.values.get("readiness-probe"))
            or serves(written)
        )
        inherits = serving or self.configuration.apply_defaults_to == "all"
        policy = self._policies.policy(
            case.kind.name, above, below, case.namespace, inherits=inherits
        )
        return Situation(
            kind=case.kind,
            namespace=case.request.namespace,
            policy=policy,
            serving=serving,
            inherits=inherits,
            cluster=self.cluster(),
            precheck=self._precheck,
        )

    def _draft(self, case: _Case, *, kept: bool) -> Draft:
        """Give the pod template that the user wrote, or with `kept` the one in the cluster."""
        draft = Draft(case.workload)
        if not kept:
            self.ledger.take_out(draft, case.of_template, in_template=True)
        elif not case.same_template and case.old is not None:
            draft.set(TEMPLATE, grafted(template(case.workload), case.old.template))
        return draft

    def _start(self, case: _Case, draft: Draft) -> None:
        """Take out what lies outside the template: the draft is then what mutations start from."""
        self.ledger.take_out(draft, case.of_workload, in_template=False)
        draft.settle_baseline()

    def _mutate(self, draft: Draft, situation: Situation, *, apply: bool, kept: bool) -> None:
        """Apply the mutations, or none, and write the records of what they injected."""
        mutations = [each for each in self.mutations if not (kept and each.in_template)]
        if apply:
            for mutation in mutations:
                mutation.apply(draft, situation)
        if draft.taken:
            for mutation in mutations:
                if mutation.settle:
                    mutation.settle(draft, situation.kind)
        self.ledger.write(draft, in_template=False)
        if not kept:
            self.ledger.write(draft, in_template=True)

    def _decision(
        self,
        case: _Case,
        draft: Draft,
        situation: Situation,
        skipped: SkipReason | None,
        *,
        kept: bool,
    ) -> Decision:
        applied = set(draft.injected.values())
        ours: Collection[tuple[Field, str | None]] = draft.injected
        if kept:
            stays = self.ledger.read(draft.root, in_template=True)
            applied.update(place.setting for place, _ in stays.entries)
            ours = {*ours, *stays.entries}
        written = bool(case.above.values or case.below.values)
        treated = situation.inherits or written
        found = list(_invalid(_problems(case.above, case.below)))
        found += draft.alerts
        if not skipped and treated:
            found += warnings.check(draft.root, situation, ours)
        if not skipped and case.namespace is not None:
            found += _invalid(case.namespace.layer.problems)
        found += _unreadable(case)
        if kept:
            found += self._undone(case)
        if found and self._says_nothing(case):
            found = []
        if not applied and not skipped:
            skipped = SkipReason.NOTHING_TO_INJECT if treated else SkipReason.NOT_SERVING
        return Decision(
            operations=draft.patch(),
            alerts=tuple(found),
            applied=tuple(name for name in self._names if name in applied),
            skipped=None if applied else skipped,
            kept=kept,
            situation=situation,
            result=draft.root,
            old=case.old,
        )


class _Case(NamedTuple):
    """A request about a workload, read once: what everybody says of it."""

    request: Request
    kind: Kind
    workload: Json
    old: OldObject | None
    namespace: Namespace | None
    above: Layer
    below: Layer
    out_of_scope: SkipReason | None
    brings_record: bool
    of_template: Record
    of_workload: Record
    of_old_template: Record
    new_image: bool
    same_template: bool


def _runs_other_images(old: OldObject, workload: Json) -> bool:
    """Tell whether the regular containers run something else: no image there is ever ours.

    Mostly this is how a pod template changes, and then need not be compared.
    """
    return old.images != [each.get("image") for each in containers(workload)]


def _told(problems: Sequence[Problem]) -> str | None:
    """Name the first few problems, and how many more there are."""
    return summarise(list(map(str, problems)), _TOLD) or None


def _left_alone(workload: Json) -> SkipReason | None:
    """Say why nothing is injected, whatever is set: of a Rollout, the Deployment may be patched."""
    return SkipReason.WORKLOAD_REF if mapping(workload.get("spec")).get("workloadRef") else None


def _problems(above: Layer, below: Layer) -> tuple[Problem, ...]:
    return above.problems + below.problems


def _invalid(problems: Iterable[Problem]) -> tuple[Alert, ...]:
    return tuple(Alert(WarningCode.INVALID_SETTING, each.brief) for each in problems)


def _unreadable(case: _Case) -> Iterator[Alert]:
    for record, place in ((case.of_template, POD_TEMPLATE), (case.of_workload, WORKLOAD)):
        if not record.readable:
            text = f"the record on the {place} is unreadable: what it named is yours now"
            yield Alert(WarningCode.UNREADABLE_RECORD, text)


def _malformed(complaint: str) -> Decision:
    text = f"nothing is patched: {complaint}"
    return Decision(skipped=SkipReason.MALFORMED, alerts=(Alert(WarningCode.MALFORMED, text),))
