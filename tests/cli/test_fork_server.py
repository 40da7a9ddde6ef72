"""A command that the tests fork is what a process of its own would be."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.commands import RunningCommand, clean_environment, run_syncctl
from tests.harness.fork_server import ForkServer, list_modules
from tests.harness.settings_files import NOWHERE, write_settings

LOADING = """
import importlib, os, random, socket, sys, time
from tests.harness.fork_server import LIBRARIES

def watch(event, args):
    if event.startswith(("os.putenv", "socket.", "subprocess.")):
        print(module, event, *args)
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        print(module, event, *args)

def tell(place, name):
    def told(*args, function=getattr(place, name)):
        if args[1:] != ("PYDANTIC_DISABLE_PLUGINS",):
            print(module, name, *args[1:])
        return function(*args)
    setattr(place, name, told)

for name in LIBRARIES:
    importlib.import_module(name)
sys.addaudithook(watch)
for place, names in (
    (type(os.environ), ("__getitem__", "__iter__")),
    (os, ("getcwd", "getpid", "urandom")),
    (random, ("random", "_urandom")),
    (socket, ("gethostname",)),
    (time, ("time", "monotonic")),
):
    for name in names:
        tell(place, name)
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*{"syncctl.__main__", "syncctl.celery_app", "syncctl.tasks"} & {*sys.modules}, end="")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Settings of services that nothing answers for."""
    return write_settings(tmp_path / "settings", source_url=f"sqlite:///{tmp_path}/source.db", **NOWHERE)


@pytest.mark.parametrize(
    "args",
    [
        ("--version",),
        ("config", "--json"),
        ("status",),
        ("poll", "--once", "--json"),
        ("stauts",),
        ("doctor", "source"),
    ],
    ids=" ".join,
)
def test_a_fork_writes_and_returns_what_an_interpreter_of_its_own_does(directory: Path, args: tuple[str, ...]) -> None:
    env = {"SOURCE_URL": "sqlite:////nowhere/at/all.db", "WORKER__CONCURRENCY": "3"}
    forked = run_syncctl(*args, cwd=directory, env=env)
    own = subprocess.run(
        [sys.executable, "-m", "syncctl", *args],
        cwd=directory, env=clean_environment(env), capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (forked.exit_code, forked.stdout) == (own.returncode, own.stdout)
    assert forked.stderr == own.stderr


def test_what_a_fork_has_loaded_of_syncctl_asks_nothing_of_the_machine_while_it_loads() -> None:
    """Fails where a module that a command finds loaded depends on its environment, its directory or the time."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", LOADING, *list_modules()],
        cwd=Path(__file__).parents[2], env=clean_environment({"PYDANTIC_DISABLE_PLUGINS": "__all__"}),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_a_fork_has_a_session_and_the_environment_that_it_is_given(
    directory: Path, start_syncctl: Callable[..., RunningCommand]
) -> None:
    command = start_syncctl("poll", cwd=directory, env={"PARTNER_TOKEN": "t-1"})
    process = Path(f"/proc/{command.pid}")
    assert os.getsid(command.pid) == os.getpgid(command.pid) == command.pid
    assert (process / "cwd").readlink() == directory
    assert {(process / f"fd/{number}").readlink() for number in (1, 2)} == {command.child.log}
    assert (process / "fd/0").readlink() == Path(os.devnull)
    command.kill()
    assert command.wait() == -9


def test_a_command_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not started"):
        run_syncctl("--version", cwd=tmp_path / "nowhere")


def test_a_variable_that_python_reads_when_it_starts_takes_an_interpreter_of_its_own() -> None:
    server = ForkServer(clean_environment())
    assert server.can_start(clean_environment({"REDIS_URL": "redis://h"}))
    assert not server.can_start(clean_environment({"PYTHONIOENCODING": "ascii"}))
    assert not server.can_start(clean_environment({"LC_ALL": "C.UTF-16"}))


def test_the_server_ends_with_the_tests(eventually: Callable[..., Any]) -> None:
    code = (
        "import os, pathlib; from tests.harness.commands import run_syncctl\n"
        "assert run_syncctl('--version', cwd=pathlib.Path()).exit_code == 0\n"
        "children = pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text()\n"
        "os.write(1, children.encode()); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2], env=clean_environment(), stdout=subprocess.PIPE, timeout=60, check=True,
    )  # fmt: skip
    (server,) = done.stdout.split()
    eventually(lambda: not Path(f"/proc/{int(server)}/exe").exists())
