"""One token for all processes: encrypted in Redis, requested by one process, used by the others after a 401."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis

from syncctl.broker.token_cache import RedisTokenCache
from syncctl.core.outcome import Outcome, Verdict
from syncctl.errors import ServiceUnavailable
from syncctl.partner.auth import shared_token, token_renewal
from syncctl.partner.auth.shared_token import derive_name_and_key
from syncctl.partner.client import PartnerClient
from tests.harness.cases import make_partner, make_record, make_stream
from tests.harness.hostile_partner import Peer
from tests.harness.token_endpoint import CLIENT_SECRET, TokenDesk

pytestmark = pytest.mark.timeout(60)

MakeClient = Callable[..., PartnerClient]


@pytest.fixture
def desk() -> Iterator[TokenDesk]:
    """A partner that takes no token but the newest that was given."""
    with TokenDesk() as desk:
        yield desk


@pytest.fixture
def process(desk: TokenDesk, redis_url: str, redis_prefix: str) -> Iterator[MakeClient]:
    """Make the client of one more process: it shares a token cache with the others, and no memory."""
    opened: list[Any] = []

    def make(url: str = redis_url, *, name: str = "default", timeout_seconds: float = 20.0, **auth: str) -> Any:
        token_cache = RedisTokenCache(url, prefix=redis_prefix)
        partner = make_partner(desk.partner.url, name=name, auth=desk.auth(**auth), timeout_seconds=timeout_seconds)
        client = PartnerClient(partner, make_stream(), token_cache=token_cache)
        opened.extend((client, token_cache))
        return client

    yield make
    for each in opened:
        each.close()


def send(client: PartnerClient, number: int = 1) -> Outcome:
    return client.send(client.prepare(make_record(number)))


def send_at_once(clients: list[PartnerClient], *, threads: int) -> list[Verdict]:
    start = threading.Barrier(len(clients) * threads)
    verdicts: list[Verdict] = []

    def run(client: PartnerClient, number: int) -> None:
        start.wait(30)
        verdicts.append(send(client, number).verdict)

    running = [threading.Thread(target=run, args=(each, n)) for each in clients for n in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return verdicts


def test_calls_of_two_processes_in_turn_need_one_token(process: MakeClient, desk: TokenDesk) -> None:
    clients = [process(), process()]
    outcomes = [send(clients[number % 2], number) for number in range(20)]
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    assert desk.given == 1
    assert desk.tokens_used == ["t0ken-1-abcdef"] * 20


def test_two_partners_of_one_client_share_it_too(process: MakeClient, desk: TokenDesk) -> None:
    for client in (process(name="orders"), process(name="stock")):
        assert send(client).verdict is Verdict.ACCEPTED
    assert desk.given == 1


@pytest.mark.parametrize("other", [{"client_secret": "another"}, {"scope": "all"}, {"audience": "https://b"}])
def test_another_client_has_another_one(process: MakeClient, desk: TokenDesk, other: dict[str, str]) -> None:
    send(process())
    send(process(**other))
    assert desk.given == 2


def test_processes_that_begin_or_renew_at_once_ask_once(process: MakeClient, desk: TokenDesk) -> None:
    clients = [process() for _ in range(3)]
    verdicts = send_at_once(clients, threads=3)
    assert desk.given == 1
    desk.revoke()
    verdicts += send_at_once(clients, threads=3)
    assert desk.given == 2
    assert verdicts == [Verdict.ACCEPTED] * 18


def test_a_slow_token_endpoint_is_waited_for_by_all(process: MakeClient, desk: TokenDesk) -> None:
    asked = threading.Event()
    original = desk.partner

    def give_slowly(peer: Peer) -> None:
        asked.set()
        time.sleep(0.5)
        desk.given, desk.good = desk.given + 1, "slow-token"
        peer.answer("200 OK", b'{"access_token":"slow-token","expires_in":3600}')

    desk.answer = give_slowly
    assert send_at_once([process(), process()], threads=2) == [Verdict.ACCEPTED] * 4
    assert asked.is_set()
    assert (desk.given, len(original.requests)) == (1, 4)


def test_a_token_that_another_process_renewed_is_used_after_a_401(process: MakeClient, desk: TokenDesk) -> None:
    """And does not request a new one, which would invalidate the other's."""
    one, two = process(), process()
    send(one)
    send(two)
    desk.revoke()
    assert send(one).verdict is Verdict.ACCEPTED
    assert send(two).verdict is Verdict.ACCEPTED
    assert send(one).verdict is Verdict.ACCEPTED
    assert desk.given == 2
    assert desk.tokens_used[-4:] == ["t0ken-2-abcdef", "t0ken-1-abcdef", "t0ken-2-abcdef", "t0ken-2-abcdef"]


def test_before_its_end_one_process_renews_it_for_all(desk: TokenDesk, process: MakeClient, monkeypatch: Any) -> None:
    desk.expires_in = 3600
    clients = [process(), process()]
    for client in clients:
        send(client)
    later = time.monotonic() + 3550
    # Redis's clock is not moved, so it still keeps the old token.
    monkeypatch.setattr(token_renewal, "read_clock", lambda: later)
    verdicts = [send(client).verdict for client in clients]
    assert verdicts == [Verdict.ACCEPTED] * 2
    assert desk.given == 2


def test_a_partner_that_takes_no_token_is_asked_for_one_more_by_one_process_only(
    process: MakeClient, desk: TokenDesk
) -> None:
    desk.unwanted = True
    outcomes = [send(process(), number) for number in range(4)]
    assert {(outcome.verdict, outcome.status) for outcome in outcomes} == {(Verdict.RETRY_LATER, 401)}
    assert desk.given == 2


def test_a_process_that_died_while_it_asked_delays_the_others_only_briefly(
    process: MakeClient, desk: TokenDesk, redis_url: str, redis_prefix: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(shared_token, "CLAIM_SECONDS", 0.5)
    name, _ = derive_name_and_key(desk.auth().values)
    dead = RedisTokenCache(redis_url, prefix=redis_prefix)
    assert dead.claim(f"token:{name}", seconds=0.5)
    dead.close()
    assert send(process()).verdict is Verdict.ACCEPTED


def test_within_a_calls_deadline_there_is_a_token_or_nothing_is_sent(
    process: MakeClient, desk: TokenDesk, redis_url: str, redis_prefix: str
) -> None:
    name, _ = derive_name_and_key(desk.auth().values)
    other = RedisTokenCache(redis_url, prefix=redis_prefix)
    claim = other.claim(f"token:{name}", seconds=shared_token.CLAIM_SECONDS)
    outcome = send(process(timeout_seconds=0.5))
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert outcome.error == "no token in time: another process still waits for the token endpoint"
    other.release(f"token:{name}", "not its claim")
    assert other.claim(f"token:{name}", seconds=shared_token.CLAIM_SECONDS) is None
    other.release(f"token:{name}", claim or "")
    other.close()
    assert send(process()).verdict is Verdict.ACCEPTED
    assert (desk.given, len(desk.partner.requests)) == (1, 1)


def test_without_redis_each_process_goes_on_for_itself(process: MakeClient, desk: TokenDesk) -> None:
    client = process("redis://localhost:1/0")
    assert [send(client, number).verdict for number in range(3)] == [Verdict.ACCEPTED] * 3
    assert desk.given == 1
    desk.revoke()
    assert send(client).verdict is Verdict.ACCEPTED
    assert desk.given == 2


def test_a_redis_that_hangs_delays_a_call_only_briefly(process: MakeClient, desk: TokenDesk, own_redis: Any) -> None:
    own_redis.freeze()
    client = process(own_redis.url(), timeout_seconds=10.0)
    outcomes = [send(client, number) for number in range(3)]
    own_redis.thaw()
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ACCEPTED] * 3
    assert sum(outcome.latency_ms for outcome in outcomes[1:]) < outcomes[0].latency_ms, (
        "asked once, and then left alone"
    )
    assert desk.given == 1


def test_once_redis_is_back_an_older_token_does_not_come_back_with_it(
    process: MakeClient, desk: TokenDesk, monkeypatch: Any
) -> None:
    """The token that was renewed meanwhile is newer than the one in the cache."""
    one, two = process(), process()
    send(one)
    away = True
    original = RedisTokenCache.read

    def read(self: RedisTokenCache, name: str) -> Any:
        if away:
            raise ServiceUnavailable("away", service="redis", why="", hint="")
        return original(self, name)

    monkeypatch.setattr(RedisTokenCache, "read", read)
    desk.revoke()
    assert send(one).verdict is Verdict.ACCEPTED
    away = False
    assert send(two).verdict is Verdict.ACCEPTED
    assert {send(each).verdict for each in (one, two)} == {Verdict.ACCEPTED}


def test_neither_the_token_nor_the_secret_is_in_redis_in_clear(
    process: MakeClient, desk: TokenDesk, redis_url: str, redis_prefix: str
) -> None:
    send(process())
    with Redis.from_url(redis_url) as redis:
        found = {key: redis.get(key) for key in redis.scan_iter(f"{redis_prefix}*")}
        (key,) = found
        assert redis.pttl(key) <= 3_600_000
        text = f"{key!r} {found[key]!r}"
        for secret in (desk.good, CLIENT_SECRET, "sync ctl", "abcdef", "cl1ent"):
            assert secret not in text
        redis.set(key, b"not what was written")
    # A value that cannot be decrypted is treated as missing.
    assert send(process()).verdict is Verdict.ACCEPTED
    assert desk.given == 2


def test_keys_that_somebody_replaced_keep_no_process_from_its_token(redis_url: str, redis_prefix: str) -> None:
    with closing(RedisTokenCache(redis_url, prefix=redis_prefix)) as cache, Redis.from_url(redis_url) as redis:
        redis.hset(f"{redis_prefix}shelf:a", "x", "y")
        assert cache.read("a") is None
        cache.write("a", b"sealed", seconds=10)
        assert (cache.read("a") or (b"", 0))[0] == b"sealed"
        for spoil in (
            lambda: redis.set(f"{redis_prefix}shelf:a:claim", "x"),
            lambda: redis.set(f"{redis_prefix}shelf:a:claim", "x", ex=3600),
            lambda: redis.hset(f"{redis_prefix}shelf:a:claim", "x", "y"),
        ):
            spoil()
            claim = cache.claim("a", seconds=10)
            assert claim
            assert cache.claim("a", seconds=10) is None
            cache.release("a", claim)
