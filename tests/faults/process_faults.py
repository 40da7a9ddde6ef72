"""Faults of workers and Beats, and a script of all faults drawn from a seed."""

import os
import signal
from collections.abc import Sequence
from random import Random

from tests.faults.fault import Draw, Fault, Timed
from tests.faults.operator_faults import draw_operator
from tests.faults.service_faults import draw_mongodb, draw_partner, draw_redis, draw_source
from tests.harness.commands import RunningCommand
from tests.harness.deployment import Deployment, Layout
from tests.harness.process_groups import group_members, is_suspended, signal_group
from tests.harness.waiting import eventually

SOON_SECONDS = 60.0
AT_WORK = ('"action": "deliver"', '"action": "poll"')


def kill_worker(deployment: Deployment, random: Random) -> Fault:
    """Kill -9 a worker with its pool, and start another."""

    def act() -> bool:
        worker = random.choice(deployment.workers)
        assert worker.is_running(), f"syncctl {worker.name} has ended on its own:\n{worker.log[-3000:]}"
        deployment.kill(worker)
        deployment.start_worker()
        return True

    return Fault(kind="kill worker", first=act)


def kill_pool_process(deployment: Deployment, random: Random) -> Fault:
    """Kill -9 one process of a worker's pool."""

    def act() -> bool:
        pool = find_pool(deployment)
        if not pool:
            return False
        pid = random.choice(pool)
        kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in find_pool(deployment), SOON_SECONDS)
        return True

    return Fault(kind="kill pool process", first=act)


def stop_worker(deployment: Deployment, random: Random) -> Fault:
    """SIGTERM a worker, which must end with 0 once every other fault is repaired, and start another."""

    def act() -> bool:
        # Until Celery has its handler in place a SIGTERM simply ends it.
        ready = [worker for worker in deployment.workers if "ready" in worker.log and not is_suspended(worker.pid)]
        if not ready:
            return False
        worker = random.choice(ready)
        deployment.start_worker()
        deployment.let_go(worker)
        return True

    return Fault(kind="stop worker", first=act)


def stall_worker(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP a worker that has records in hand, with its pool, past its leases, then SIGCONT."""
    halted: list[RunningCommand] = []

    def halt() -> bool:
        holders = deployment.find_holders()
        busy = [
            worker
            for worker in deployment.workers
            if holders & set(group_members(worker.pid)) and not is_suspended(worker.pid)
        ]
        if not busy:
            return False
        worker = random.choice(busy)
        signal_group(worker, signal.SIGSTOP)
        eventually(lambda: all(is_suspended(member) for member in group_members(worker.pid)), SOON_SECONDS)
        if not deployment.find_holders() & set(group_members(worker.pid)):
            # The worker finished its records before it was suspended.
            signal_group(worker, signal.SIGCONT)
            return False
        halted.append(worker)
        return True

    seconds = deployment.layout.lease_seconds + random.uniform(0.5, 2)
    return Fault(kind="stall worker", first=halt, then=lambda: go_on(halted), after_seconds=seconds)


def stall_pool_process(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP one process of a worker's pool that has records in hand past its leases, then SIGCONT."""
    halted: list[int] = []

    def halt() -> bool:
        busy = sorted(
            holder for holder in deployment.find_holders() & set(find_pool(deployment)) if not is_suspended(holder)
        )
        if not busy:
            return False
        pid = random.choice(busy)
        kill(pid, signal.SIGSTOP)
        # The process may have ended at that moment.
        eventually(lambda: is_suspended(pid) or pid not in find_pool(deployment), SOON_SECONDS)
        if not is_suspended(pid) or pid not in deployment.find_holders():
            kill(pid, signal.SIGCONT)
            return False
        halted.append(pid)
        return True

    def resume() -> bool:
        for pid in halted:
            kill(pid, signal.SIGCONT)
        return True

    seconds = deployment.layout.lease_seconds + random.uniform(0.5, 2)
    return Fault(kind="stall pool process", first=halt, then=resume, after_seconds=seconds)


def kill_beat(deployment: Deployment, random: Random) -> Fault:
    """Kill -9 Beat, and start another."""

    def act() -> bool:
        beat = random.choice(deployment.beats)
        assert beat.is_running(), f"Beat has ended on its own:\n{beat.log[-3000:]}"
        deployment.kill(beat)
        deployment.start_beat()
        return True

    return Fault(kind="kill beat", first=act)


def stall_beat(deployment: Deployment, random: Random) -> Fault:
    """SIGSTOP Beat, then SIGCONT."""
    halted: list[RunningCommand] = []

    def halt() -> bool:
        halted.append(random.choice(deployment.beats))
        signal_group(halted[0], signal.SIGSTOP)
        eventually(lambda: is_suspended(halted[0].pid), SOON_SECONDS)
        return True

    return Fault(kind="stall beat", first=halt, then=lambda: go_on(halted), after_seconds=random.uniform(2, 6))


def draw_worker(layout: Layout) -> Sequence[Draw]:
    """Return the faults of a worker; only a pool of processes has processes to kill and stall."""
    always = (kill_worker, stop_worker, stall_worker)
    return (*always, kill_pool_process, stall_pool_process) if layout.pool == "prefork" else always


def draw_beat(_layout: Layout) -> Sequence[Draw]:
    """Return the faults of Beat."""
    return (kill_beat, stall_beat)


def draw_kinds(layout: Layout, random: Random) -> list[Draw]:
    """Choose two faults of workers and one of each other part, among those that can take effect in this layout."""
    parts = (draw_redis, draw_mongodb, draw_source, draw_partner, draw_operator)
    return [
        *random.sample(draw_worker(layout), 2),
        random.choice(draw_beat(layout)),
        *(deal(draw(layout), count_turns(layout), f"{draw.__name__} {layout.members}") for draw in parts),
    ]


def count_turns(layout: Layout) -> int:
    """Return how many seeds before this one had a layout of the same kind: wired or not, of several members or not."""
    return layout.seed // 4 if layout.members > 1 else layout.seed // 2


def deal(kinds: Sequence[Draw], turn: int, part: str) -> Draw:
    """Return the fault of this turn: all kinds come once, in a random order, before any comes again."""
    deck = list(kinds)
    Random(f"{part} {turn // len(deck)}").shuffle(deck)
    return deck[turn % len(deck)]


def draw_script(deployment: Deployment, random: Random, *, seconds: float) -> list[Timed]:
    """Draw when each fault begins; faults of one part never overlap, except for the two of workers."""
    script: list[Timed] = []
    for number, draw in enumerate(draw_kinds(deployment.layout, random)):
        fault = draw(deployment, random)
        script.append(Timed(at_seconds=random.uniform(0, seconds) if number else 0.0, fault=fault))
    return script


def find_pool(deployment: Deployment) -> list[int]:
    """Return the pool processes of all workers that have done something.

    A worker whose pool loses a process before its loop has begun ends itself, because Celery takes that for a pool that
    cannot be started.
    """
    at_work = [worker for worker in deployment.workers if any(mark in worker.log for mark in AT_WORK)]
    return [pid for worker in at_work for pid in group_members(worker.pid) if pid != worker.pid]


def go_on(halted: Sequence[RunningCommand]) -> bool:
    """Resume suspended processes, except those that were killed in between."""
    for command in halted:
        signal_group(command, signal.SIGCONT)
    return True


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
