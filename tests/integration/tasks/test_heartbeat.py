"""Beat's scheduler is stopped while it writes its heartbeat."""

import subprocess
import sys
from pathlib import Path

STOPPED_IN_A_WRITE = """
import os, signal
from celery.apps.beat import Beat
from syncctl.celery_app import app
import syncctl.tasks
from syncctl.ledger.heartbeats import Heartbeats

write = Heartbeats.record_beat

def stopped_meanwhile(self, facts, **named):
    # The driver, too, has something to finish when the signal's handler ends its work.
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        write(self, facts, **named)

Heartbeats.record_beat = stopped_meanwhile
Beat(app=app, loglevel="error").run()
"""


def test_a_stop_in_the_middle_of_a_heartbeat_is_a_clean_one(settings_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_A_WRITE],
        cwd=settings_dir,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
