"""Faults of MongoDB, Redis, the source, the partner and the wires between them and the workers."""

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from syncctl.local.server import Server
from tests.faults.fault import Draw, Fault
from tests.harness.commands import RunningCommand
from tests.harness.deployment import DATABASE, Deployment, Layout
from tests.harness.faulty_mongod import FaultyMongod
from tests.harness.process_groups import is_suspended, signal_group
from tests.harness.replica_set import Member, ReplicaSet
from tests.harness.tcp_proxy import Mood
from tests.harness.waiting import eventually

SOON_SECONDS = 60.0
# The commands that syncctl sends to each collection all the time; a fault of any other would never take effect.
WRITES = (
    ("records", "update"), ("records", "update"), ("records", "insert"),
    ("keys", "update"), ("keys", "insert"),
    ("batches", "update"), ("batches", "update"), ("batches", "delete"),
    ("streams", "update"), ("streams", "findAndModify"), ("streams", "findAndModify"),
    ("runs", "insert"),
)  # fmt: skip
HOW: Mapping[str, Mapping[str, Any]] = {
    "connection closed": {"closeConnection": True},
    "write concern 64": {"writeConcernError": {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "timed out"}},
    "write concern 91": {"writeConcernError": {"code": 91, "codeName": "ShutdownInProgress", "errmsg": "going down"}},
    "error 91": {"errorCode": 91},
    "error 189": {"errorCode": 189},
}


def kill_server(server: Server) -> bool:
    """Kill -9 a server."""
    assert server.is_running(), f"{server.name} has ended on its own"
    server.kill()
    return not server.is_running()


def start_server(server: Server) -> bool:
    """Start a server with the data in its files."""
    server.start(timeout_seconds=SOON_SECONDS)
    return True


def freeze(server: Server) -> bool:
    """SIGSTOP a server."""
    server.freeze()
    eventually(lambda: is_suspended(server.pid), SOON_SECONDS)
    return True


def thaw(server: Server) -> bool:
    """SIGCONT a server."""
    server.thaw()
    return True


def lose_redis(deployment: Deployment, random: Random) -> Fault:
    """Kill Redis, and start it empty a little later."""

    def start_empty() -> bool:
        deployment.lose_redis()
        return True

    seconds = random.uniform(0.2, 3)
    return Fault(
        kind="lose redis", first=lambda: kill_server(deployment.redis), then=start_empty, after_seconds=seconds
    )


def restart_redis(deployment: Deployment, random: Random) -> Fault:
    """Kill Redis, and start it with the data in its append-only file."""
    return Fault(
        kind="restart redis",
        first=lambda: kill_server(deployment.redis),
        then=lambda: start_server(deployment.redis),
        after_seconds=random.uniform(0.2, 3),
    )


def flush_redis(deployment: Deployment, _random: Random) -> Fault:
    """FLUSHALL while a message waits. Idle workers take each message at once, so they are suspended until one waits."""
    halted: list[RunningCommand] = []

    def act() -> bool:
        for worker in deployment.workers:
            if worker.is_running() and not is_suspended(worker.pid):
                signal_group(worker, signal.SIGSTOP)
                halted.append(worker)
        try:
            with Redis.from_url(deployment.redis.url(), socket_timeout=SOON_SECONDS) as redis:
                # Redis runs the script as a whole, so that no message gets in between.
                waiting = int(redis.eval(FLUSH_MESSAGES, 0))  # type: ignore[arg-type]
        except RedisError:
            return False
        if not waiting:
            return False
        for worker in halted:
            signal_group(worker, signal.SIGCONT)
        return True

    return Fault(kind="flush redis", first=act)


FLUSH_MESSAGES = """
local count = 0
for _, key in ipairs(redis.call("keys", "*")) do
    if redis.call("type", key).ok == "list" then count = count + redis.call("llen", key) end
end
if count > 0 then redis.call("flushall") end
return count
"""


def freeze_redis(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP Redis, then SIGCONT: connections stay open, nothing answers."""
    return Fault(
        kind="freeze redis",
        first=lambda: freeze(deployment.redis),
        then=lambda: thaw(deployment.redis),
        after_seconds=random.uniform(1, 4),
    )


def find_mongod(deployment: Deployment) -> FaultyMongod:
    """Return the only mongod of a deployment."""
    assert isinstance(deployment.mongod, FaultyMongod)
    return deployment.mongod


def kill_mongod(deployment: Deployment, random: Random) -> Fault:
    """Kill -9 MongoDB, and start it again."""
    return Fault(
        kind="kill mongod",
        first=lambda: kill_server(find_mongod(deployment)),
        then=lambda: start_server(find_mongod(deployment)),
        after_seconds=random.uniform(0.2, 2),
    )


def restart_mongod(deployment: Deployment, _random: Random) -> Fault:
    """Shut MongoDB down cleanly, and start it again."""

    def act() -> bool:
        mongod = find_mongod(deployment)
        before = mongod.pid
        mongod.stop()
        start_server(mongod)
        return mongod.pid != before

    return Fault(kind="restart mongod", first=act)


def freeze_mongod(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP MongoDB, then SIGCONT."""
    return Fault(
        kind="freeze mongod",
        first=lambda: freeze(find_mongod(deployment)),
        then=lambda: thaw(find_mongod(deployment)),
        after_seconds=random.uniform(1, 4),
    )


def step_down_mongod(deployment: Deployment, random: Random) -> Fault:
    """Make the primary step down: for a while there is none, then it is elected again, in another term."""
    seconds = random.randint(1, 4)
    terms: list[int] = []

    def begin() -> bool:
        terms.append(deployment.mongod.read_term()[0])
        deployment.mongod.step_down(seconds=seconds)
        return True

    def end() -> bool:
        term, is_primary = deployment.mongod.read_term()
        return is_primary and term > terms[0]

    return Fault(kind="step mongod down", first=begin, then=end, after_seconds=seconds, detail=f"{seconds} s")


def fail_writes(deployment: Deployment, random: Random) -> Fault:
    """Make a few writes of one kind to one collection fail: the connection closes, or no majority has the write."""
    collection, command = random.choice(WRITES)
    how = random.choice(sorted(HOW))
    times = random.randint(1, 4)
    what = {"failCommands": [command], "namespace": f"{DATABASE}.{collection}", "appName": "syncctl", **HOW[how]}
    before: list[int] = []

    def begin() -> bool:
        before.append(deployment.mongod.fail(what, times=times))
        return True

    def end() -> bool:
        if deployment.mongod.count_failed() == before[0]:
            return False
        deployment.mongod.stop_failing()
        return True

    return Fault(
        kind=f"fail {command}: {how}",
        first=begin,
        then=end,
        after_seconds=random.uniform(2, 4),
        detail=f"{collection}, {times} times",
    )


def kill_member(deployment: Deployment, random: Random, *, role: str) -> Fault:
    """Kill -9 a member of the replica set, and start it again once the others have a primary."""
    killed: list[Member] = []

    def begin() -> bool:
        members = find_set(deployment).find(role)
        if not members:
            return False
        killed[:] = [random.choice(members)]
        return kill_server(killed[0])

    def end() -> bool:
        return bool(find_set(deployment).find("primary")) and start_server(killed[0])

    return Fault(kind=f"kill {role}", first=begin, then=end, after_seconds=random.uniform(0.2, 4))


def freeze_primary(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP the primary until another was elected, then SIGCONT: for a moment there are two."""
    frozen: list[Member] = []

    def begin() -> bool:
        primaries = find_set(deployment).find("primary")
        if not primaries:
            return False
        frozen[:] = primaries[:1]
        primaries[0].freeze()
        eventually(lambda: is_suspended(primaries[0].pid), SOON_SECONDS)
        return True

    def end() -> bool:
        if not find_set(deployment).find("primary", but=frozen[0]):
            return False
        return thaw(frozen[0])

    return Fault(kind="freeze primary", first=begin, then=end, after_seconds=random.uniform(1, 4))


def find_set(deployment: Deployment) -> ReplicaSet:
    """Return the replica set of a deployment that has one of several members."""
    assert isinstance(deployment.mongod, ReplicaSet)
    return deployment.mongod


def lock_source(deployment: Deployment, random: Random) -> Fault:
    """Hold a transaction of the source that blocks readers and writers for longer than a query may take."""
    epochs: list[int] = []

    def begin() -> bool:
        epoch = deployment.read_epoch()
        if epoch is None:
            return False
        deployment.source.lock()
        epochs.append(epoch)
        return True

    def end() -> bool:
        epoch = deployment.read_epoch()
        # A poll that began under the lock can have read nothing.
        if epoch is None or epoch <= epochs[0]:
            return False
        deployment.source.unlock()
        return True

    return Fault(kind="lock source", first=begin, then=end, after_seconds=random.uniform(0.5, 5))


def lose_source(deployment: Deployment, random: Random) -> Fault:
    """Move the source away, and back once a poll has missed it."""

    def begin() -> bool:
        if deployment.read_epoch() is None or deployment.read_poll_error() is not None:
            return False
        deployment.source.hide()
        return True

    def end() -> bool:
        if deployment.read_poll_error() is None:
            return False
        deployment.source.show()
        return True

    return Fault(kind="lose source", first=begin, then=end, after_seconds=random.uniform(0.5, 4))


def break_wire(deployment: Deployment, random: Random, *, part: str, mood: Mood) -> Fault:
    """Refuse, reset, hang or delay all traffic between the workers and a part, until a connection was affected."""
    wire = deployment.wires[part]
    # The delay applies each way, so that a call to the partner comes near its deadline, or exceeds it.
    delay = random.uniform(0.05, 0.6) * deployment.layout.timeout_seconds
    before: list[int] = []

    def begin() -> bool:
        before[:] = [wire.affected]
        wire.set(mood, delay_seconds=delay)
        if mood == "refuse" and wire.affected == before[0]:
            # A refused connection is not counted, only an open one that is reset.
            wire.set("open")
            return False
        return True

    def end() -> bool:
        if wire.affected == before[0]:
            return False
        wire.set("open")
        return True

    return Fault(kind=f"wire to {part}: {mood}", first=begin, then=end, after_seconds=random.uniform(0.5, 4))


MEMBER_FAULTS: Sequence[Draw] = (
    partial(kill_member, role="primary"), step_down_mongod, freeze_primary, fail_writes,
    partial(kill_member, role="secondary"),
)  # fmt: skip
"""The faults of a replica set of several members; the objects are the same at each call."""
MOODS: Sequence[Mood] = ("refuse", "cut", "hang", "delay")
WIRES: Mapping[str, Sequence[Draw]] = {
    part: tuple(partial(break_wire, part=part, mood=mood) for mood in MOODS) for part in ("mongod", "redis", "partner")
}
"""The faults of the wire to each part; the objects are the same at each call."""


def draw_redis(layout: Layout) -> Sequence[Draw]:
    """Return the faults of Redis, with those of its wire if there is one."""
    own = (lose_redis, restart_redis, flush_redis, freeze_redis)
    return (*own, *WIRES["redis"]) if layout.wired else own


def draw_mongodb(layout: Layout) -> Sequence[Draw]:
    """Return the faults of MongoDB, with those of its wire if there is one."""
    if layout.members > 1:
        return MEMBER_FAULTS
    own = (kill_mongod, fail_writes, restart_mongod, fail_writes, freeze_mongod, fail_writes, step_down_mongod)
    return (*own, *WIRES["mongod"]) if layout.wired else own


def draw_source(layout: Layout) -> Sequence[Draw]:
    """Return the faults of the source; with `wal`, a writer locks no reader out."""
    return (lock_source, lose_source) if layout.journal == "delete" else (lose_source,)


def draw_partner(_layout: Layout) -> Sequence[Draw]:
    """Return the faults of the partner."""
    return WIRES["partner"]
