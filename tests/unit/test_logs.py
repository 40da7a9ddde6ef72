"""Log lines: a stable action, fields, and never a secret."""

import json
import subprocess
import sys

import pytest

SECRET = "p@ss/word"

SCRIPT = """
import logging
from syncctl.logs import configure_logging, get_logger

configure_logging(level={level!r}, format={form!r}, secrets={secrets!r})
log = get_logger("syncctl.somewhere")
log.debug("poll.debug")
log.info("poll.page", stream="orders", read=1000, note="two words", at=5, empty=None, ids=["a", "b"])
try:
    raise ValueError("cannot use p@ss/word")
except ValueError:
    log.exception("poll.failed", url="redis://:p%40ss%2Fword@host", error="p@ss/word")
logging.getLogger("celery.worker").warning("connected to %s", "p@ss/word")
logging.getLogger("pymongo.command").info("chatter")
"""


def run_script(form: str, *, level: str = "info", secrets: tuple[str, ...] = (SECRET,)) -> list[str]:
    script = SCRIPT.format(form=form, level=level, secrets=secrets)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "auto"])
def test_json_lines_have_a_stable_action_and_fields(form: str) -> None:
    page, failed, foreign = [json.loads(line) for line in run_script(form)]
    assert page["action"] == "poll.page"
    assert (page["level"], page["stream"], page["read"], page["note"]) == ("info", "orders", 1000, "two words")
    assert (page["at_"], page["empty"], page["ids"]) == (5, None, ["a", "b"])
    assert page["at"].endswith("Z")
    assert failed["traceback"].startswith("Traceback")
    assert foreign["action"] == "celery.worker"


def test_text_lines_are_one_action_with_its_fields() -> None:
    lines = run_script("text")
    assert lines[0].endswith(
        'info    action=poll.page stream=orders read=1000 note="two words" at_=5 empty=null ids=["a", "b"]'
    )
    assert "action=poll.failed" in lines[1]
    assert lines[2] == "    Traceback (most recent call last):"
    assert 'action=celery.worker message="connected to ***"' in lines[-1]


def test_short_lines_begin_like_a_commands_own_warnings() -> None:
    assert run_script("short", level="warning")[-1] == ('warning: action=celery.worker message="connected to ***"')


@pytest.mark.parametrize("form", ["json", "text", "short"])
def test_no_line_holds_a_secret_in_any_spelling(form: str) -> None:
    text = "\n".join(run_script(form))
    assert "***" in text
    assert SECRET not in text
    assert "p%40ss%2Fword" not in text


def test_without_secrets_the_same_lines_show_the_words() -> None:
    assert SECRET in "\n".join(run_script("text", secrets=()))


def test_the_level_is_kept_and_drivers_do_not_chatter() -> None:
    actions = [json.loads(line)["action"] for line in run_script("json", level="debug")]
    assert actions == ["poll.debug", "poll.page", "poll.failed", "celery.worker"]
    assert "poll.page" not in "\n".join(run_script("json", level="warning"))


def test_debug_shows_no_details_of_celery_and_calls_are_logged_only_if_asked_for() -> None:
    script = """
import logging
from syncctl.logs import ATTEMPTS, configure_logging, get_logger
for attempts in (False, True):
    configure_logging(level="debug", format="json", attempts=attempts)
    get_logger(ATTEMPTS).info("deliver.attempt", asked=attempts)
for name in ("celery.worker", "kombu.transport", "billiard.pool"):
    logging.getLogger(name).debug("inside")
logging.getLogger("celery.worker").info("connected")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["action"], line.get("asked")) for line in shown] == [
        ("deliver.attempt", True),
        ("celery.worker", None),
    ]


@pytest.mark.parametrize("form", ["json", "text", "short"])
def test_no_line_drives_the_terminal_or_shows_other_than_it_says(form: str) -> None:
    script = (
        "from syncctl.logs import configure_logging, get_logger\n"
        f"configure_logging(format={form!r})\n"
        "log = get_logger('x')\n"
        "try:\n    raise ValueError('a\\x1b[2J\\u202eb')\n"
        "except ValueError:\n    log.exception('poll.failed', error='a\\x9b2J\\u202eb\\nc')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(line.isprintable() for line in done.stderr.split("\n"))
    assert "u202e" in done.stderr


@pytest.mark.parametrize("form", ["json", "text", "short"])
def test_a_secret_is_found_where_a_value_is_shown_as_python_or_json_writes_it(form: str) -> None:
    secret = "quo\"te\\and\nline'é"
    script = (
        "import json\n"
        "from syncctl.logs import configure_logging, get_logger\n"
        f"secret = {secret!r}\n"
        f"configure_logging(format={form!r}, secrets=[secret])\n"
        "shown = {'error': repr(secret), 'row': {'a': secret}, 'body': json.dumps([secret]), 'raw': secret.encode()}\n"
        "get_logger('x').warning('a', **shown)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "quo" not in done.stderr
    assert done.stderr.count("***") == 4
