"""Beat is stopped in the middle of a tick: the locks of the tick are left alone, and no other tick begins."""

import subprocess
import sys
from pathlib import Path

CODE = """
from syncctl.celery_app import app
from syncctl.tasks.scheduler import HeartbeatScheduler

scheduler = HeartbeatScheduler(app=app, lazy=True)
held = scheduler.connection
scheduler.close()
assert scheduler.connection is held, "a tick may be publishing over it"
try:
    scheduler.tick()
except SystemExit:
    print("stopped")
"""


def test_closing_in_a_tick_releases_nothing_and_begins_no_further_tick(settings_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=settings_dir, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "stopped\n", done.stderr
