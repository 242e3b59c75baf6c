from __future__ import annotations

import base64
import contextlib
import random
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.fake_api import CONFIGURATIONS, FakeApi, Fault, Request, once
from webhook.cluster.authority import (
    Lifetimes,
    SelfManagedCertificates,
    is_due,
    make_authority,
    put_right,
    read_authority,
    sign,
    write_authority,
)
from webhook.cluster.trust import TrustWatch, entries, read_bundle, verifies
from webhook.tls.certificates import CertificateError, self_signed, untimely

SECRETS = "/api/v1/namespaces/seamless/secrets"
NAME = "seamless-rollouts"
HOST = "webhook.seamless.svc"
DAY = timedelta(days=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Replica:
    """One replica, whose rounds are done by hand and whose waits end on command."""

    def __init__(self, fake: FakeApi, *, configuration: str | None = NAME) -> None:
        self.seconds = 0.0
        self.source = SelfManagedCertificates(
            fake.api(),
            "seamless",
            "ca",
            configuration=configuration,
            names=["webhook.seamless.svc"],
            clock=lambda: self.seconds,
        )

    def round(self, *, later: float = 0.0) -> float:
        """Do one round, seconds later."""
        self.seconds += later
        return self.source.step()

    @property
    def leaf(self) -> x509.Certificate:
        """What it serves."""
        assert self.source._leaf is not None
        return self.source._leaf


@pytest.fixture
def installed(fake: FakeApi) -> FakeApi:
    """The fake with our configuration in it: two entries, without a bundle, and a stranger's."""
    service = {"name": "webhook", "namespace": "seamless", "path": "/mutate"}
    hooks = [{"name": f"{name}.x", "clientConfig": {"service": service}} for name in ("a", "b")]
    fake.put(CONFIGURATIONS, NAME, {"webhooks": hooks})
    fake.put(CONFIGURATIONS, "strangers", {"webhooks": hooks})
    return fake


def bundles(fake: FakeApi, name: str = NAME) -> list[list[x509.Certificate]]:
    """List what each entry of a configuration trusts."""
    return [each.trusted for each in entries(fake.objects[CONFIGURATIONS][name])]


def stored(fake: FakeApi) -> x509.Certificate:
    """Read the CA that is in the Secret."""
    data = fake.objects[SECRETS]["ca"]["data"]
    return x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))


def trusted(fake: FakeApi, replica: Replica) -> bool:
    """Whether every entry of the configuration verifies what a replica serves, at this time."""
    now = fake.now()
    return untimely(replica.leaf, now) is None and all(
        verifies(replica.source.context, HOST, [each for each in bundle if not untimely(each, now)])
        is None
        for bundle in bundles(fake)
    )


def test_the_first_round_makes_a_ca_and_a_leaf_and_puts_the_bundles_right(
    installed: FakeApi,
) -> None:
    """One Secret, one write to our configuration, none to another; then we are ready."""
    replica = Replica(installed)
    assert "no certificate yet" in (replica.source.problem() or "")
    replica.round()
    assert replica.source.problem() is None
    assert trusted(installed, replica)
    assert bundles(installed) == [[stored(installed)]] * 2
    assert bundles(installed, "strangers") == [[], []]
    assert installed.objects[SECRETS]["ca"]["type"] == "kubernetes.io/tls"
    assert replica.source.expires() == replica.leaf.not_valid_after_utc
    assert replica.source.authority_expires() == stored(installed).not_valid_after_utc


def test_a_round_that_finds_all_right_writes_nothing(installed: FakeApi) -> None:
    """Two GETs are all that it costs."""
    replica = Replica(installed)
    replica.round()
    installed.requests.clear()
    for _ in range(3):
        assert 20 < replica.round(later=30) < 40
    assert [each.method for each in installed.requests] == ["GET"] * 6


def test_any_number_of_replicas_that_start_at_once_agree(installed: FakeApi) -> None:
    """Ten threads: one CA is made, each leaf is of it, and every entry trusts each of them."""
    replicas = [Replica(installed) for _ in range(10)]
    barrier = threading.Barrier(len(replicas))

    def run(replica: Replica) -> None:
        barrier.wait()
        replica.round()

    threads = [threading.Thread(target=run, args=(each,)) for each in replicas]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for replica in replicas:
        replica.round()
        assert replica.source.problem() is None
        assert trusted(installed, replica)
        assert replica.leaf.issuer == stored(installed).subject
    assert bundles(installed) == [[stored(installed)]] * 2
    assert sum(each.source.writes for each in replicas) == 2


def test_a_lost_race_for_the_secret_reads_what_the_other_wrote(installed: FakeApi) -> None:
    """Another replica creates the Secret between our GET and our POST."""
    other = Replica(installed)

    def meanwhile(request: Request) -> None:
        if request.method == "POST":
            installed.faults.clear()
            other.round()

    installed.faults.append(meanwhile)
    replica = Replica(installed)
    replica.round()
    assert replica.leaf.issuer == other.leaf.issuer
    assert replica.source.writes == 0


def test_a_lost_race_for_the_configuration_keeps_what_the_other_wrote(installed: FakeApi) -> None:
    """Somebody adds an entry between our GET and our PATCH: both are there afterwards."""
    replica = Replica(installed)

    def meanwhile(request: Request) -> None:
        if request.method == "PATCH":
            installed.faults.clear()
            hooks = installed.objects[CONFIGURATIONS][NAME]["webhooks"]
            client = {"service": {"name": "webhook", "namespace": "seamless"}}
            added = [{"name": "new", "clientConfig": client}, *hooks]
            installed.put(CONFIGURATIONS, NAME, {"webhooks": added})

    installed.faults.append(meanwhile)
    replica.round()
    assert bundles(installed) == [[stored(installed)]] * 3
    assert replica.source.problem() is None


@pytest.mark.parametrize("restored", [None, "", "Z2FyYmFnZQ=="])
def test_a_configuration_that_is_applied_again_without_its_bundle_is_put_right(
    installed: FakeApi, restored: str | None
) -> None:
    """As Helm or Argo CD may do; the leaf stays."""
    replica = Replica(installed)
    replica.round()
    leaf = replica.leaf
    hooks = installed.objects[CONFIGURATIONS][NAME]["webhooks"]
    hooks[1]["clientConfig"].pop("caBundle")
    if restored is not None:
        hooks[1]["clientConfig"]["caBundle"] = restored
    installed.put(CONFIGURATIONS, NAME, {"webhooks": hooks})
    replica.round()
    assert bundles(installed) == [[stored(installed)]] * 2
    assert replica.leaf is leaf
    assert replica.source.problem() is None


def test_what_others_put_into_a_bundle_is_left_alone_while_it_is_valid(
    installed: FakeApi,
) -> None:
    """A stranger's CA stays beside ours; it leaves when it has expired."""
    now = installed.now()
    foreign = self_signed(["other"], now)
    late = self_signed(["late"], now - timedelta(days=900))
    for each in installed.objects[CONFIGURATIONS][NAME]["webhooks"]:
        bundle = base64.b64encode(foreign.certificate + late.certificate).decode()
        each["clientConfig"]["caBundle"] = bundle
    Replica(installed).round()
    assert bundles(installed) == [[stored(installed), foreign.leaf]] * 2


def test_a_configuration_that_is_not_there_yet_is_waited_for(fake: FakeApi) -> None:
    """Not ready, asked for every two seconds, and ready with the first round that finds it."""
    replica = Replica(fake)
    assert replica.round() < 3
    assert replica.source.problem() == f"there is no MutatingWebhookConfiguration {NAME}"
    client = {"url": "https://127.0.0.1:9443/mutate"}
    fake.put(CONFIGURATIONS, NAME, {"webhooks": [{"name": "a", "clientConfig": client}]})
    replica.round()
    assert replica.source.problem() is None
    assert verifies(replica.source.context, "127.0.0.1", bundles(fake)[0]) is None


def test_without_a_configuration_to_look_after_a_leaf_is_all_there_is(fake: FakeApi) -> None:
    """Nothing is patched, and nobody's trust is asked for."""
    replica = Replica(fake, configuration=None)
    replica.round()
    assert replica.source.problem() is None
    assert not fake.asked("GET", CONFIGURATIONS)


@pytest.mark.parametrize(
    "damage",
    [
        {"tls.crt": ""},
        {"tls.key": "Z2FyYmFnZQ=="},
        {"tls.crt": "%%%"},
        {"tls.crt": None, "tls.key": None, "ca.crt": None},
        {"tls.key": base64.b64encode(self_signed(["x"], NOW).key).decode()},
        None,
        "deleted",
    ],
    ids=["empty", "key", "base64", "nulls", "another key", "no data", "deleted"],
)
def test_a_secret_that_is_damaged_or_deleted_is_made_anew_with_overlap(
    installed: FakeApi, damage: Any
) -> None:
    """The old CA stays trusted, so what the other replica serves is good until it has learned."""
    one, two = Replica(installed), Replica(installed)
    one.round()
    two.round()
    old = stored(installed)
    if damage == "deleted":
        installed.delete(SECRETS, "ca")
    else:
        thing = installed.objects[SECRETS]["ca"]
        thing["data"] = {**thing["data"], **damage} if damage else damage
        installed.put(SECRETS, "ca", thing)
    one.round()
    new = stored(installed)
    assert new != old
    assert bundles(installed) == [[new, old]] * 2
    assert trusted(installed, one)
    assert trusted(installed, two)
    for replica in (one, two):
        replica.round()
        assert replica.leaf.issuer == old.subject
        replica.round(later=61)
        assert replica.leaf.issuer == new.subject
        assert trusted(installed, replica)
    assert sum(each.source.writes for each in (one, two)) == 4


def test_a_secret_that_somebody_filled_with_other_things_keeps_them(installed: FakeApi) -> None:
    """An empty one that a chart made, with labels, takes the CA and keeps its type."""
    installed.put(SECRETS, "ca", {"metadata": {"labels": {"a": "b"}}, "type": "Opaque"})
    Replica(installed).round()
    thing = installed.objects[SECRETS]["ca"]
    assert thing["type"] == "Opaque"
    assert thing["metadata"]["labels"] == {"a": "b"}
    assert set(thing["data"]) == {"tls.crt", "tls.key", "ca.crt"}


def test_a_leaf_is_renewed_after_two_thirds_of_its_life(installed: FakeApi) -> None:
    """Seven days: on the fourth it is the same, on the fifth it is not."""
    replica = Replica(installed)
    replica.round()
    leaf = replica.leaf
    installed.clock_is_ahead = 4 * DAY
    replica.round()
    assert replica.leaf is leaf
    installed.clock_is_ahead = 5 * DAY
    replica.round()
    assert replica.leaf is not leaf
    assert trusted(installed, replica)


def test_a_leaf_is_renewed_while_the_api_server_is_away(installed: FakeApi) -> None:
    """Its CA is known, and the time is counted on from the last answer."""
    replica = Replica(installed)
    replica.round()
    leaf = replica.leaf
    installed.clock_is_ahead = 5 * DAY
    installed.faults.append(once(Fault(503), times=10**6))
    replica.round()
    assert replica.leaf is not leaf
    assert replica.source.problem() is None


def test_a_ca_is_renewed_with_overlap(installed: FakeApi) -> None:
    """Both are trusted until no leaf of the old one can be valid; then the old one leaves."""
    one, two = Replica(installed), Replica(installed)
    one.round()
    two.round()
    old = stored(installed)
    days = 235
    while stored(installed) == old:
        days += 1
        installed.clock_is_ahead = days * DAY
        one.round(later=86400)
        two.round(later=86400)
        assert trusted(installed, one)
        assert trusted(installed, two)
    assert 242 <= days <= 244
    new = stored(installed)
    assert bundles(installed) == [[new, old]] * 2
    leaf = one.leaf
    one.round(later=30)
    assert one.leaf is leaf
    one.round(later=31)
    assert one.leaf.issuer == new.subject
    for day in range(12):
        installed.clock_is_ahead = (days + day) * DAY
        one.round(later=86400)
        assert trusted(installed, one)
        assert bundles(installed) == [[new, old] if day < 8 else [new]] * 2, day


def test_a_leaf_of_a_new_ca_waits_until_every_bundle_has_held_it_for_a_minute(
    installed: FakeApi,
) -> None:
    """A bundle that loses the new CA meanwhile begins the minute anew."""
    replica = Replica(installed)
    replica.round()
    old = stored(installed)
    installed.clock_is_ahead = 250 * DAY
    replica.round()
    # The leaf of seven days had long ended: it was signed at once, there was nothing to lose.
    assert replica.leaf.issuer == stored(installed).subject != old.subject
    installed.delete(SECRETS, "ca")
    replica.round()
    replica.round(later=59)
    assert replica.leaf.issuer != stored(installed).subject
    replica.round(later=2)
    assert replica.leaf.issuer == stored(installed).subject


@pytest.mark.parametrize("jump", [-400 * DAY, -2 * DAY, 2 * DAY, 300 * DAY, 4000 * DAY])
def test_a_clock_that_jumps_leaves_a_certificate_that_is_trusted(
    installed: FakeApi, jump: timedelta
) -> None:
    """The API server's clock jumps and jumps back: after one round all is good by that clock."""
    replicas = [Replica(installed) for _ in range(2)]
    for moment in (timedelta(), jump, timedelta(), jump):
        installed.clock_is_ahead = moment
        for replica in replicas:
            replica.round(later=30)
        for replica in replicas:
            replica.round(later=30)
            assert trusted(installed, replica)
            assert replica.source.problem() is None


def test_the_clock_of_this_machine_does_not_count(
    installed: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten years off, and a replica makes and judges certificates by the API server's time."""
    for years in (-10, 10):

        class Wrong(datetime):
            """A clock that is off."""

            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + years * 365 * DAY  # noqa: B023

        monkeypatch.setattr("webhook.cluster.client.datetime", Wrong)
        replica = Replica(installed)
        replica.round()
        assert trusted(installed, replica)
        assert replica.source.problem() is None


def test_an_api_server_that_is_away_is_waited_for(installed: FakeApi) -> None:
    """Not ready with a reason at first; once ready, an outage changes nothing."""
    refusal = b'{"message": "secrets \\"ca\\" is forbidden"}'
    installed.faults.append(once(Fault(0), times=1))
    installed.faults.append(once(Fault(403, body=refusal), times=1))
    replica = Replica(installed)
    assert replica.round() <= 0.5
    assert "no answer" in (replica.source.problem() or "")
    replica.round()
    assert "forbidden" in (replica.source.problem() or "")
    replica.round()
    assert replica.source.problem() is None
    installed.faults.append(once(Fault(503), times=10**6))
    waits = [replica.round(later=30) for _ in range(10)]
    assert max(waits) <= 30
    assert waits[-1] >= 15
    assert replica.source.problem() is None


def test_a_configuration_that_another_keeps_changing_is_not_fought_over(
    installed: FakeApi,
) -> None:
    """A few tries in a round, and then the next round."""

    def meanwhile(request: Request) -> None:
        if request.method == "PATCH":
            installed.put(CONFIGURATIONS, NAME, installed.objects[CONFIGURATIONS][NAME])

    installed.faults.append(meanwhile)
    replica = Replica(installed)
    assert replica.round() <= 0.5
    assert len(installed.asked("PATCH")) == 5
    assert "changes faster" in (replica.source.problem() or "")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4))
def test_whatever_happens_all_replicas_end_up_trusted(seed: int, count: int) -> None:
    """Random rounds, faults, races, deletions and passing days; afterwards two quiet rounds."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    fake = FakeApi()
    try:
        client = {"service": {"name": "webhook", "namespace": "seamless"}}
        bare = {"webhooks": [{"name": "a", "clientConfig": client}]}
        fake.put(CONFIGURATIONS, NAME, bare)
        replicas = [Replica(fake) for _ in range(count)]
        for _ in range(25):
            match chance.randrange(8):
                case 0:
                    fake.faults.append(once(Fault(chance.choice([0, 409, 429, 500])), times=2))
                case 1:
                    fake.put(CONFIGURATIONS, NAME, bare)
                case 2:
                    with contextlib.suppress(KeyError):
                        fake.delete(SECRETS, "ca")
                case 3:
                    fake.put(SECRETS, "ca", {"data": {"tls.crt": "Z2FyYmFnZQ=="}})
                case 4:
                    fake.clock_is_ahead += chance.choice([1, 3, 100, 300]) * DAY
                case 5:
                    replicas[chance.randrange(count)] = Replica(fake)
                case _:
                    chance.choice(replicas).round(later=chance.choice([1, 30, 100]))
        fake.faults.clear()
        for _ in range(2):
            for replica in replicas:
                replica.round(later=100)
        assert all(trusted(fake, each) for each in replicas)
        assert [each.source.problem() for each in replicas] == [None] * count
        assert all(len(bundle) <= 5 for bundle in bundles(fake))
    finally:
        fake.close()


# --- pure parts ----------------------------------------------------------------------------------


def test_a_ca_survives_being_written_and_read() -> None:
    """What comes back is the same, with those before it."""
    first = make_authority(NOW, 365 * DAY)
    second = make_authority(NOW + DAY, 365 * DAY, [first.certificate])
    found = read_authority(write_authority(second), NOW + DAY)
    assert found.certificate == second.certificate
    assert found.before == (first.certificate,)


def test_what_is_no_ca_is_not_read_as_one() -> None:
    """A leaf in its place, a key in its place, an expired one, nothing."""
    authority = make_authority(NOW, 365 * DAY)
    leaf = sign(authority, ["a"], NOW, DAY)
    encoded = {
        "tls.crt": base64.b64encode(leaf.certificate).decode(),
        "tls.key": base64.b64encode(leaf.key).decode(),
    }
    with pytest.raises(CertificateError, match="no certificate of a CA"):
        read_authority(encoded, NOW)
    with pytest.raises(CertificateError, match="expired at 2027"):
        read_authority(write_authority(authority), NOW + 400 * DAY)
    with pytest.raises(CertificateError, match=r"tls\.crt is missing"):
        read_authority({}, NOW)


def test_only_the_newest_few_of_many_cas_are_kept() -> None:
    """A Secret that is deleted again and again does not make the bundle grow without end."""
    before: list[x509.Certificate] = []
    for number in range(8):
        before.append(make_authority(NOW + number * DAY, 365 * DAY, before).certificate)
    newest = make_authority(NOW + 9 * DAY, 365 * DAY, before)
    assert newest.before == tuple(reversed(before[-4:]))


def test_a_leaf_never_outlives_its_ca() -> None:
    """Otherwise its last days would be trusted by nobody."""
    authority = make_authority(NOW, 3 * DAY)
    assert sign(authority, ["a"], NOW, 7 * DAY).expires() == NOW + 3 * DAY


@given(st.floats(0, 1.2))
def test_a_certificate_is_due_after_two_thirds_of_its_life(share: float) -> None:
    """No sooner, no later."""
    life = _CA.not_valid_after_utc - _CA.not_valid_before_utc
    assert is_due(_CA, _CA.not_valid_before_utc + share * life) == (share >= 2 / 3)


_CA = make_authority(NOW, Lifetimes().authority).certificate


def test_a_bundle_is_read_piece_by_piece() -> None:
    """A broken certificate takes no other along; text between them is no garbage."""
    pem = self_signed(["a"], NOW).certificate
    broken = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    for content, count, garbage in (
        (b"", 0, False),
        (b"\n", 0, False),
        (pem, 1, False),
        (b"# ours\n" + pem + pem, 1, False),
        (pem + broken, 1, True),
        (b"nothing", 0, True),
    ):
        found, broken_part = read_bundle(base64.b64encode(content).decode())
        assert (len(found), broken_part) == (count, garbage), content
    assert read_bundle("%") == ([], True)
    assert read_bundle(None) == ([], False)


def test_a_patch_tests_the_version_that_was_read() -> None:
    """And writes only entries that are wrong."""
    wanted = [_CA]
    encoded = put_right(_configuration(None), wanted, NOW)[1]["value"]
    operations = put_right(_configuration(encoded, None), wanted, NOW)
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    assert [each["path"] for each in operations[1:]] == ["/webhooks/1/clientConfig/caBundle"]
    assert put_right(_configuration(encoded, encoded), wanted, NOW) == []


def _configuration(*bundles_of: str | None) -> dict[str, Any]:
    clients = [{"url": "https://a/"} | ({"caBundle": each} if each else {}) for each in bundles_of]
    return {
        "metadata": {"resourceVersion": "7"},
        "webhooks": [{"clientConfig": client} for client in clients],
    }


# --- trust in certificates from files ------------------------------------------------------------


def test_trust_is_what_the_configuration_says(installed: FakeApi) -> None:
    """The name, the issuer and the presence of a bundle all count; an outage changes nothing."""
    replica = Replica(installed)
    replica.round()
    context: ssl.SSLContext = replica.source.context
    watch = TrustWatch(installed.api(), NAME, context)
    assert "not read yet" in (watch.problem() or "")
    assert watch.step() > 20
    assert watch.problem() is None
    strange = TrustWatch(installed.api(), "strangers", context)
    assert strange.step() < 3
    assert (strange.problem() or "").endswith(
        "strangers, webhooks[0], caBundle, for webhook.seamless.svc: "
        "the bundle holds no valid certificate"
    )
    hooks = installed.objects[CONFIGURATIONS][NAME]["webhooks"]
    for number, (service, reason) in enumerate([("other", "Hostname mismatch"), ("webhook", None)]):
        hooks[0]["clientConfig"]["service"]["name"] = service
        installed.put(CONFIGURATIONS, NAME, {"webhooks": hooks})
        watch.step()
        assert (reason or "") in (watch.problem() or ""), number
        assert (watch.problem() is None) == (reason is None)
    installed.faults.append(once(Fault(503), times=3))
    watch.step()
    assert watch.problem() is None
    installed.faults.clear()
    installed.delete(CONFIGURATIONS, NAME)
    watch.step()
    assert watch.problem() == f"there is no MutatingWebhookConfiguration {NAME}"
