"""`syncctl init` as a conversation on a terminal."""

import os
import pty
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.commands import clean_environment, run_syncctl
from tests.harness.source_db import SourceDb

CANARY = "cAn4ry-7f3e"
AWAY_URL = "redis://127.0.0.1:1/0"


class Dialogue:
    """A command on a terminal: what it asks is waited for, and answered as a person does."""

    def __init__(self, directory: Path) -> None:
        self.shown = ""
        self._seen = 0
        self._terminal, end = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "syncctl", "init"],
            cwd=directory, env=clean_environment({"NO_COLOR": "1", "TERM": "xterm"}), stdin=end, stdout=end, stderr=end,
            start_new_session=True,
        )  # fmt: skip
        os.close(end)

    def answer(self, question: str, text: str) -> None:
        """Wait until a question is asked, and type a line."""
        while question not in self.shown[self._seen :]:
            if not self._read():
                raise AssertionError(f"{question!r} was not asked:\n{self.shown}")
        self._seen = len(self.shown)
        os.write(self._terminal, f"{text}\n".encode())

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown."""
        while text not in self.shown[self._seen :]:
            assert self._read(), self.shown

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def hang_up(self) -> None:
        """End the input, as Ctrl-D does."""
        os.write(self._terminal, b"\x04")

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        return self._process.wait(timeout=60)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._terminal)

    def _read(self) -> bool:
        # A terminal whose other end has closed answers with an error, not with an end of file.
        try:
            chunk = os.read(self._terminal, 4096)
        except OSError:
            return False
        self.shown += chunk.decode(errors="replace").replace("\r\n", "\n")
        return bool(chunk)


@contextmanager
def dialogue(directory: Path) -> Iterator[Dialogue]:
    """Run `syncctl init` on a terminal."""
    spoken = Dialogue(directory)
    try:
        yield spoken
    finally:
        spoken.close()


@pytest.fixture
def source(source_db: SourceDb) -> SourceDb:
    """A source with a table of three rows."""
    source_db.execute("create table orders (id integer primary key, note text, updated_at datetime not null)")
    source_db.execute_many(
        "insert into orders values (?, 'x', ?)", [(number, f"2026-01-31 0{number}:00:00") for number in (1, 2, 3)]
    )
    return source_db


def answer_all(spoken: Dialogue, answers: Sequence[tuple[str, str]]) -> None:
    for question, text in answers:
        spoken.answer(question, text)


def test_it_tries_each_answer_and_ends_in_a_working_stream(
    tmp_path: Path, source: SourceDb, mongo_url: str, redis_url: str, partner: Any
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with dialogue(home) as spoken:
        answer_all(
            spoken,
            [
                ("URL (", "nonsense"),
                ("URL (", source.url.removeprefix("sqlite:///")),
                ("URL (", source.url),
                ("URL [mongodb://", mongo_url),
                ("URL [redis://", AWAY_URL),
                ("URL (Enter: try again", redis_url),
                ("URL (", partner.url),
                ("Bearer token", CANARY),
                ("Table, by number", "no_such"),
                ("Table, by number", "orders"),
                ("Mode [1]", "9"),
                ("Mode [1]", "1"),
                ("Name of the stream [orders]", ""),
                ("Endpoint", "GET /"),
                ("Endpoint", "PUT /orders/{number}"),
                ("Endpoint", ""),
                ("Start: now, beginning (3 rows), or a value of updated_at", "2026-01-31 01:30:00"),
            ],
        )
        spoken.wait_for("Write this?")
        assert not list(home.iterdir())
        spoken.answer("Write this?", "y")
        assert spoken.end() == 0, spoken.shown
    assert CANARY not in spoken.shown
    assert "is neither an SQLAlchemy URL" in " ".join(spoken.shown.split())
    assert f"is the path of a file; write it as a URL: {source.url}" in " ".join(spoken.shown.split())
    assert "orders has no column number; it has id, note, updated_at" in spoken.shown
    assert "the first poll sends 2 rows" in spoken.shown, spoken.shown
    assert "next: syncctl poll orders --dry-run" in spoken.shown
    assert stat.S_IMODE((home / ".env").stat().st_mode) == 0o600
    assert f"PARTNER_TOKEN={CANARY}" in (home / ".env").read_text()
    assert CANARY not in (home / "syncctl.toml").read_text()
    polled = run_syncctl("poll", "--once", "--json", cwd=home)
    assert polled.exit_code == 0, polled.stderr
    assert polled.json["runs"][0]["logged"] == 2


def test_it_appends_a_stream_and_leaves_the_file_as_it_was(settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(2)
    source_db.execute("create table stock (sku text primary key not null, pieces integer)")
    path = settings_dir / "syncctl.toml"
    path.write_text('# mine\n[streams.orders]\ntable = "orders"  # as it is\nstart = "now"\n# the end')
    before, env = path.read_text(), (settings_dir / ".env").read_text()
    with dialogue(settings_dir) as spoken:
        answer_all(
            spoken,
            [("Table, by number", "stock"), ("Mode [1]", ""), ("Name", "goods"), ("Endpoint", ""), ("Write this?", "")],
        )
        assert spoken.end() == 0, spoken.shown
    assert "every existing row (0 rows)" in " ".join(spoken.shown.split())
    assert path.read_text().startswith(before)
    assert tomllib.loads(path.read_text())["streams"]["goods"]["table"] == "stock"
    assert (settings_dir / ".env").read_text() == env
    assert not (settings_dir / "syncctl.toml.old").exists()


def test_the_proposed_endpoint_has_every_column_of_the_key(settings_dir: Path, source_db: SourceDb) -> None:
    (settings_dir / "syncctl.toml").unlink()
    source_db.execute("create table garden (bed text, slot int, primary key (bed, slot))")
    source_db.execute("insert into garden values ('a', 1), ('a', 2)")
    with dialogue(settings_dir) as spoken:
        answer_all(
            spoken,
            [
                ("Table, by number", "garden"),
                ("Mode [1]", ""),
                ("Name", ""),
                ("Endpoint; PUT /garden/{bed}/{slot} works too [POST /garden]: ", "PUT /garden/{bed}"),
            ],
        )
        spoken.wait_for("To write")
        assert "share one address at the partner" in " ".join(spoken.shown.split())
        spoken.answer("Write this?", "n")
        assert spoken.end() == 1, spoken.shown


def test_a_file_to_which_no_stream_can_be_appended_is_refused_before_the_first_question(settings_dir: Path) -> None:
    with dialogue(settings_dir) as spoken:
        assert spoken.end() == 2
    assert "write streams in syncctl.toml as [streams.NAME]" in spoken.shown
    assert "Source" not in spoken.shown


@pytest.mark.parametrize("how", ["interrupt", "hang_up", "no"])
def test_whoever_stops_before_the_end_has_written_nothing(how: str, tmp_path: Path, source: SourceDb) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with dialogue(home) as spoken:
        answer_all(spoken, [("URL (", source.url), ("URL [", "skip"), ("URL [", "skip"), ("URL (", "skip")])
        if how == "no":
            answer_all(spoken, [("Table, by number", ""), ("Write this?", "n")])
        else:
            spoken.wait_for("Table, by number")
            getattr(spoken, how)()
        assert spoken.end() == {"interrupt": 130, "hang_up": 2, "no": 1}[how], spoken.shown
    assert "nothing was written" in spoken.shown
    assert not list(home.iterdir())


def test_a_password_is_asked_for_hidden_and_becomes_part_of_the_url(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with dialogue(home) as spoken:
        answer_all(
            spoken,
            [
                ("URL (", "skip"),
                ("URL [mongodb://", "mongodb://me@127.0.0.1:1/x?serverSelectionTimeoutMS=200"),
                ("Password", f"{CANARY}/@"),
                ("URL (Enter", ""),
                ("URL (Enter", "skip"),
                ("URL [redis://", "redis://:***@127.0.0.1:1/0"),
                ("Password", CANARY),
            ],
        )
        spoken.wait_for("URL (Enter")
        spoken.interrupt()
        assert spoken.end() == 130
    assert CANARY not in spoken.shown
