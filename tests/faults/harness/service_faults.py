"""Faults of MongoDB, Redis, the source, the partner and the wires between them and the workers."""

from collections.abc import Sequence
from random import Random
from typing import Any

from redis import Redis

from tests.faults.harness.fault import Draw, Fault
from tests.faults.harness.plant import DATABASE, Plant
from tests.faults.harness.proxy import Mood


def lose_redis(plant: Plant, random: Random) -> Fault:
    """Kill Redis, and start it empty a little later."""
    return Fault(name="lose redis", first=plant.redis.kill, then=plant.lose_redis, after_seconds=random.uniform(0.2, 3))


def restart_redis(plant: Plant, random: Random) -> Fault:
    """Kill Redis, and start it with what its append-only file has."""
    return Fault(
        name="restart redis", first=plant.redis.kill, then=plant.redis.start, after_seconds=random.uniform(0.2, 3)
    )


def flush_redis(plant: Plant, _random: Random) -> Fault:
    """FLUSHALL."""

    def act() -> None:
        # While it is frozen or away there is nothing to flush.
        if plant.redis.is_running():
            with Redis.from_url(plant.redis.url(), socket_timeout=1) as redis:
                redis.flushall()

    return Fault(name="flush redis", first=act)


def freeze_redis(plant: Plant, random: Random) -> Fault:
    """SIGSTOP Redis, then SIGCONT: connections stay open, nothing answers."""
    return Fault(
        name="freeze redis", first=plant.redis.freeze, then=plant.redis.thaw, after_seconds=random.uniform(1, 4)
    )


def kill_mongod(plant: Plant, random: Random) -> Fault:
    """Kill -9 MongoDB, and start it again."""
    return Fault(
        name="kill mongod", first=plant.mongod.kill, then=plant.mongod.start, after_seconds=random.uniform(0.2, 2)
    )


def restart_mongod(plant: Plant, _random: Random) -> Fault:
    """Shut MongoDB down in good order, and start it again."""
    return Fault(name="restart mongod", first=plant.mongod.restart)


def freeze_mongod(plant: Plant, random: Random) -> Fault:
    """SIGSTOP MongoDB, then SIGCONT."""
    return Fault(
        name="freeze mongod", first=plant.mongod.freeze, then=plant.mongod.thaw, after_seconds=random.uniform(1, 4)
    )


def step_down_mongod(plant: Plant, random: Random) -> Fault:
    """Let the primary step down: for a while there is none, then it is elected again."""
    seconds = random.randint(1, 4)

    def act() -> None:
        plant.mongod.administer({"replSetStepDown": seconds, "force": True})

    return Fault(name=f"step mongod down for {seconds} s", first=act)


def fail_writes(plant: Plant, random: Random) -> Fault:
    """Let a few writes of one kind to one collection fail: the connection closes, or no majority has the write."""
    collection = random.choice(["records", "records", "keys", "streams", "runs"])
    command = random.choice(["update", "update", "insert", "findAndModify"])
    how: dict[str, Any] = random.choice(
        [
            {"closeConnection": True},
            {"writeConcernError": {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting timed out"}},
            {"writeConcernError": {"code": 91, "codeName": "ShutdownInProgress", "errmsg": "shutting down"}},
        ]
    )
    times = random.randint(1, 4)
    what = {"failCommands": [command], "namespace": f"{DATABASE}.{collection}", "appName": "syncctl", **how}

    def begin() -> None:
        plant.mongod.administer({"configureFailPoint": "failCommand", "mode": {"times": times}, "data": what})

    def end() -> None:
        plant.mongod.administer({"configureFailPoint": "failCommand", "mode": "off"})

    name = f"fail {times} times {command} of {collection}: {next(iter(how.items()))}"
    return Fault(name=name, first=begin, then=end, after_seconds=random.uniform(2, 4))


def lock_source(plant: Plant, random: Random) -> Fault:
    """Hold a transaction of the source that lets nobody read or write."""
    return Fault(
        name="lock source", first=plant.source.lock, then=plant.source.unlock, after_seconds=random.uniform(0.5, 4)
    )


def lose_source(plant: Plant, random: Random) -> Fault:
    """Move the source away, and back."""
    return Fault(
        name="lose source", first=plant.source.hide, then=plant.source.show, after_seconds=random.uniform(0.5, 4)
    )


def break_wire(plant: Plant, random: Random, part: str, moods: Sequence[Mood]) -> Fault:
    """Refuse, reset, hang or delay all between the workers and one part for a while."""
    wire, mood = plant.wires[part], random.choice(moods)
    # Half of it each way: with a delay each way a call of the partner comes near its deadline, and beyond.
    delay = random.uniform(0.05, 0.6) * plant.layout.timeout_seconds
    return Fault(
        name=f"wire to {part}: {mood}",
        first=lambda: wire.set(mood, delay_seconds=delay),
        then=lambda: wire.set("open"),
        after_seconds=random.uniform(0.5, 4),
    )


def break_mongod_wire(plant: Plant, random: Random) -> Fault:
    """Trouble on the way to MongoDB."""
    return break_wire(plant, random, "mongod", ["refuse", "cut", "hang", "delay"])


def break_redis_wire(plant: Plant, random: Random) -> Fault:
    """Trouble on the way to Redis."""
    return break_wire(plant, random, "redis", ["refuse", "cut", "hang", "delay"])


def break_partner(plant: Plant, random: Random) -> Fault:
    """The partner is down, resets, hangs, or is slow."""
    return break_wire(plant, random, "partner", ["refuse", "cut", "hang", "delay"])


REDIS: Sequence[Draw] = (lose_redis, restart_redis, flush_redis, freeze_redis, break_redis_wire)
MONGODB: Sequence[Draw] = (
    kill_mongod, restart_mongod, freeze_mongod, step_down_mongod, fail_writes, fail_writes, break_mongod_wire,
)  # fmt: skip
SOURCE: Sequence[Draw] = (lock_source, lose_source)
PARTNER: Sequence[Draw] = (break_partner,)
