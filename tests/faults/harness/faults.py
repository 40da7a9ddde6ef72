"""Faults of workers and Beats, and a script of all faults drawn from a seed."""

import os
import signal
from collections.abc import Sequence
from random import Random

from tests.faults.harness.fault import Draw, Fault, Step
from tests.faults.harness.groups import group_members, signal_group
from tests.faults.harness.plant import Plant
from tests.faults.harness.service_faults import MONGODB, PARTNER, REDIS, SOURCE
from tests.harness.commands import RunningCommand


def kill_worker(plant: Plant, random: Random) -> Fault:
    """Kill -9 a worker with its pool, and start another."""

    def act() -> None:
        plant.kill(random.choice(plant.workers))
        plant.start_worker()

    return Fault(name="kill worker", first=act)


def kill_pool_process(plant: Plant, random: Random) -> Fault:
    """Kill -9 one process of a worker's pool."""

    def act() -> None:
        worker = random.choice(plant.workers)
        pool = [each for each in group_members(worker.pid) if each != worker.pid]
        if pool:
            kill(random.choice(pool), signal.SIGKILL)

    return Fault(name="kill pool process", first=act)


def stop_worker(plant: Plant, random: Random) -> Fault:
    """SIGTERM a worker, which must end with 0 once all else is well again, and start another."""

    def act() -> None:
        worker = random.choice(plant.workers)
        plant.start_worker()
        # Until Celery has its handler in place a SIGTERM simply ends it.
        if "ready" in worker.log and not is_halted(worker):
            plant.let_go(worker)
        else:
            plant.kill(worker)

    return Fault(name="stop worker", first=act)


def stall_worker(plant: Plant, random: Random) -> Fault:
    """SIGSTOP a worker with its pool past its leases, then SIGCONT."""
    halted: list[RunningCommand] = []

    def halt() -> None:
        halted.append(random.choice(plant.workers))
        signal_group(halted[0], signal.SIGSTOP)

    seconds = plant.layout.lease_seconds + random.uniform(0.5, 2)
    return Fault(name="stall worker", first=halt, then=lambda: go_on(halted), after_seconds=seconds)


def stall_pool_process(plant: Plant, random: Random) -> Fault:
    """SIGSTOP one process of a worker's pool past its leases, then SIGCONT."""
    halted: list[int] = []

    def halt() -> None:
        worker = random.choice(plant.workers)
        pool = [each for each in group_members(worker.pid) if each != worker.pid]
        if pool:
            halted.append(random.choice(pool))
            kill(halted[0], signal.SIGSTOP)

    def resume() -> None:
        for pid in halted:
            kill(pid, signal.SIGCONT)

    seconds = plant.layout.lease_seconds + random.uniform(0.5, 2)
    return Fault(name="stall pool process", first=halt, then=resume, after_seconds=seconds)


def kill_beat(plant: Plant, random: Random) -> Fault:
    """Kill -9 Beat, and start another."""

    def act() -> None:
        plant.kill(random.choice(plant.beats))
        plant.start_beat()

    return Fault(name="kill beat", first=act)


def stall_beat(plant: Plant, random: Random) -> Fault:
    """SIGSTOP Beat, then SIGCONT."""
    halted: list[RunningCommand] = []

    def halt() -> None:
        halted.append(random.choice(plant.beats))
        signal_group(halted[0], signal.SIGSTOP)

    return Fault(name="stall beat", first=halt, then=lambda: go_on(halted), after_seconds=random.uniform(2, 6))


WORKER: Sequence[Draw] = (kill_worker, kill_pool_process, stop_worker, stall_worker, stall_pool_process)
BEAT: Sequence[Draw] = (kill_beat, stall_beat)


def draw_script(plant: Plant, random: Random, *, seconds: float) -> list[Step]:
    """Draw two faults of workers and one of each other part; what befalls one part never overlaps itself."""
    kinds = [*random.sample(WORKER, 2), *(random.choice(each) for each in (BEAT, REDIS, MONGODB, SOURCE, PARTNER))]
    steps: list[Step] = []
    for number, draw in enumerate(kinds):
        # The second fault of a worker may overlap the first, on another worker or the same.
        fault = draw(plant, random)
        steps += fault.steps(random.uniform(0, seconds) if number else 0.0)
    return sorted(steps, key=lambda each: each.at_seconds)


def go_on(halted: Sequence[RunningCommand]) -> None:
    """Let halted processes go on, as far as they were not killed meanwhile."""
    for command in halted:
        signal_group(command, signal.SIGCONT)


def is_halted(command: RunningCommand) -> bool:
    """Tell whether a process is under SIGSTOP."""
    with open(f"/proc/{command.pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] == "T"


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
