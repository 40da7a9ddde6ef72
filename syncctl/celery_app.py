"""The Celery app: broker, backend, queues, schedule. No business logic.

`celery -A syncctl.celery_app worker`, `beat` and `inspect` work in a directory with a `.env`: they ask this module for
its `app`, which is then made from the settings of the working directory. Importing the module reads no settings.
"""

import logging
import os
import ssl
import warnings
from typing import Any

from celery import Celery, signals
from celery.app import default_app
from celery.platforms import SecurityWarning
from kombu import Exchange, Queue
from kombu.utils.uuid import uuid

from syncctl.broker.kombu_transport import harden_transport
from syncctl.broker.messages import CONTROL, DELIVER, HEADER, POLL, QUEUES, MessageCheck, Seal
from syncctl.broker.queue import SOCKET_TIMEOUT_SECONDS
from syncctl.core.project_key import ProjectKey
from syncctl.ledger.ledger import Ledger
from syncctl.logs import configure_logging, get_logger
from syncctl.partner.tls import warn_unverified
from syncctl.settings import Settings, load_settings

SOFT_SHUTDOWN_MARGIN_SECONDS = 10.0
KEY_TIMEOUT_SECONDS = 3.0
"""How long a process waits for MongoDB when it reads the key of its messages; other work waits for that too."""
CELERY_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)
"""Celery prefers these to an app's settings: tasks would go to another Redis than the one that everything else uses."""

log = get_logger(__name__)


class SyncctlApp(Celery):  # type: ignore[misc]
    """Celery with the settings that it was made from, and with a signature on every task that it sends.

    Args:
        settings: They name the Redis, the ledger and the streams.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__("syncctl", broker=settings.redis_url, backend=settings.redis_url, **options)
        self.settings = settings
        self.seal = Seal(lambda: load_project_key(settings))
        self.message_check = MessageCheck(self.seal, settings.stream_names)

    def send_task(self, name: str, args: Any = None, *rest: Any, task_id: str | None = None, **options: Any) -> Any:
        """Send a task with a signature, without which no worker takes it (invariant 14).

        Raises:
            UsageError: No worker would take such a task.
            ServiceUnavailable: The ledger, which holds the key, cannot be reached.
        """
        task_id = task_id or uuid()
        headers = {**(options.pop("headers", None) or {}), HEADER: self.seal.sign(name, task_id, args or ())}
        return super().send_task(name, args, *rest, task_id=task_id, headers=headers, **options)


def load_project_key(settings: Settings) -> ProjectKey:
    """Read the project's key from the ledger, which belongs to this project from then on.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached.
        ConfigurationError: The ledger belongs to another project.
    """
    with Ledger(settings.mongo_url, settings.mongo_database, timeout_seconds=KEY_TIMEOUT_SECONDS) as ledger:
        ledger.check_reachable(timeout_seconds=KEY_TIMEOUT_SECONDS)
        return ledger.project.claim(settings.project_name)


def make_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Beat's entries: a poll per stream, upkeep, roll-up, cleanup; a tick may be lost or doubled."""
    schedule: dict[str, dict[str, Any]] = {
        f"poll {name}": {
            "task": "syncctl.poll",
            "args": [name],
            "schedule": settings.stream(name).poll_every_seconds,
            "options": {"queue": POLL},
        }
        for name in settings.stream_names
    }
    for name, seconds in (
        ("upkeep", settings.beat.upkeep_every),
        ("roll_up", settings.beat.roll_up_every),
        ("cleanup", settings.beat.cleanup_every),
    ):
        schedule[name] = {"task": f"syncctl.{name}", "schedule": seconds, "options": {"queue": CONTROL}}
    return schedule


def make_app(settings: Settings) -> SyncctlApp:
    """Return the Celery app for these settings, which are its attribute `settings`; it connects to nothing yet.

    It is this process's app from then on: the tasks of `syncctl.tasks` go through the newest one.
    """
    harden_transport()
    for name in CELERY_VARIABLES:
        if os.environ.pop(name, None) is not None:
            log.warning("celery.variable_ignored", variable=name, hint="syncctl uses REDIS_URL instead")
    app = SyncctlApp(settings)
    # Celery knows a current app only in the thread that made it; other threads use the default one.
    app.set_default()
    timeouts = {
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    prefix = {"global_keyprefix": settings.redis_namespace}
    if settings.redis_url.startswith("rediss:"):
        verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        app.conf.update(broker_use_ssl=verified, redis_backend_use_ssl=verified)
    app.conf.update(
        imports=("syncctl.tasks",),
        # JSON only: nothing that comes from the broker is ever executed.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        broker_transport_options={**prefix, **timeouts, "admit": app.message_check, "priority_steps": [0]},
        # An error reply, such as a replica's, is treated like a lost connection: its end is waited for.
        result_backend_transport_options={
            **prefix,
            "additional_connection_errors": ["redis.exceptions.RedisError"],
        },
        redis_socket_timeout=SOCKET_TIMEOUT_SECONDS,
        redis_socket_connect_timeout=5.0,
        redis_socket_keepalive=True,
        redis_backend_health_check_interval=25,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Early acknowledgement: the ledger's leases bring back what a dead worker held (docs/adr).
        task_acks_late=False,
        task_ignore_result=True,
        task_publish_retry=False,
        result_expires=600,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # Remote control, and the gossip of the consumer, listen to anyone who can publish in Redis.
        worker_enable_remote_control=settings.worker.remote_control,
        worker_consumer="syncctl.tasks.consumer:PatientConsumer",
        worker_soft_shutdown_timeout=longest_call_seconds(settings) + SOFT_SHUTDOWN_MARGIN_SECONDS,
        # The default exchange needs no table of bindings in Redis, which others could spoil.
        task_queues=[Queue(name, Exchange(""), routing_key=name) for name in QUEUES],
        task_default_exchange="",
        task_default_queue=CONTROL,
        task_routes={"syncctl.deliver": {"queue": DELIVER}, "syncctl.poll": {"queue": POLL}},
        beat_schedule=make_schedule(settings),
        beat_scheduler="syncctl.tasks.scheduler:HeartbeatScheduler",
        beat_max_loop_interval=5,
        enable_utc=True,
        timezone="UTC",
    )
    app.steps["worker"].add("syncctl.tasks.embedded_beat:EmbeddedBeat")
    return app


def longest_call_seconds(settings: Settings) -> float:
    """Return the longest deadline of any partner's call."""
    return max((partner.timeout_seconds for partner in settings.partners.values()), default=30.0)


def find_app() -> SyncctlApp:
    """Return this process's app; if there is none, make it from the settings of the working directory.

    Raises:
        ConfigurationError: A setting is missing, unknown or wrong.
    """
    if not hasattr(default_app, "settings"):
        return make_app(load_settings())
    app: SyncctlApp = default_app._get_current_object()
    return app


def __getattr__(name: str) -> SyncctlApp:
    """Make `app` when it is first asked for, as `celery -A syncctl.celery_app` does."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find_app()


@signals.setup_logging.connect(weak=False)
def set_up_logging(loglevel: int | str | None = None, **_: object) -> None:
    """Log in syncctl's own format, with secrets redacted, instead of Celery's."""
    settings: Settings = find_app().settings
    level = loglevel if isinstance(loglevel, str) else settings.log.level
    configure_logging(
        level=level, format=settings.log.format, attempts=settings.log.attempts, secrets=settings.secrets()
    )
    # Celery logs every message that it takes and sends; syncctl's own lines report the outcome.
    for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


@signals.celeryd_init.connect(weak=False)
def accept_superuser(**_: object) -> None:
    """Drop Celery's warning about pickle, which is not accepted here; `warn_of_superuser` logs what still applies."""
    warnings.filterwarnings("ignore", category=SecurityWarning)


@signals.worker_ready.connect(weak=False)
def warn_of_superuser(**_: object) -> None:
    """Log in one line that a worker has rights it does not need, unless C_FORCE_ROOT says that this is intended."""
    if os.geteuid() == 0 and not os.environ.get("C_FORCE_ROOT"):
        log.warning("worker.superuser", hint="run it as a user of its own; set C_FORCE_ROOT=1 if root is intended")


@signals.worker_ready.connect(weak=False)
@signals.beat_init.connect(weak=False)
def warn_of_unverified_partners(sender: Any, **_: object) -> None:
    """Log in each run which partners' certificates are not checked."""
    warn_unverified(sender.app.settings.partners_in_use())
