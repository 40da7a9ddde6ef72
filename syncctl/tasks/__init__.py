"""Celery tasks, a few lines each: ids in, one use case, a plain dictionary out.

They are imported by name here, because Celery's autodiscovery looks only for modules called `tasks`. The names are
those of the tasks, not of their modules:

    from syncctl.tasks import add
    add.delay(2, 3).get()
"""

from syncctl.celery_app import find_app
from syncctl.tasks import alert_watch, heartbeat
from syncctl.tasks.add import add, add_and_sign
from syncctl.tasks.deliver import deliver
from syncctl.tasks.maintenance import cleanup, roll_up, upkeep
from syncctl.tasks.poll import poll

__all__ = ["add", "add_and_sign", "alert_watch", "cleanup", "deliver", "heartbeat", "poll", "roll_up", "upkeep"]

# A worker and Beat have their app by now; for a process that only sends tasks it is made here.
find_app()
