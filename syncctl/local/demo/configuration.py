"""The demo's `.env` and `syncctl.toml`, as a user would write them, and a place where nothing else is set."""

import os
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

STREAM = "orders"
WORKER_PROCESSES = 4

_ENV = """\
# The demo's services; `syncctl` reads this file in the directory it runs in.
REDIS_URL={redis_url}
MONGO_URL={mongo_url}
SOURCE_URL={source_url}
PARTNER_URL={partner_url}
PARTNER_TOKEN={partner_token}
"""
_TOML = f"""\
# One stream, impatient so that you need not wait; `syncctl init` writes you one of your own.

[partners.default]
timeout_seconds = 5
max_in_flight = 48

[streams.{STREAM}]
table = "orders"
start = "beginning"
mode = "increasing"
cursor = "updated_at"
lookback = "1s"
poll_every = "1s"
page_size = 500
endpoint = "POST /orders"
order = "latest"
retry = {{ schedule = ["200ms", "500ms", "1s", "2s", "3s", "5s"], jitter = 0.2 }}
lease = "1m"

[worker]
concurrency = {WORKER_PROCESSES}

[beat]
upkeep_every = "1s"

[log]
format = "text"
"""


def write_configuration(
    directory: Path, *, redis_url: str, mongo_url: str, source_url: str, partner_url: str, partner_token: str
) -> None:
    """Write both files."""
    env = _ENV.format(
        redis_url=redis_url,
        mongo_url=mongo_url,
        source_url=source_url,
        partner_url=partner_url,
        partner_token=partner_token,
    )
    (directory / ".env").write_text(env)
    (directory / ".env").chmod(0o600)
    (directory / "syncctl.toml").write_text(_TOML)


def is_setting(name: str) -> bool:
    """Tell whether an environment variable would change what syncctl or Celery does."""
    from syncctl.settings import Settings

    first = name.lower().partition("__")[0]
    return first.removesuffix("_file") in Settings.model_fields or first.startswith("celery_")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set nothing: the demo must never reach for somebody's real services."""
    return {name: value for name, value in environment.items() if not is_setting(name)}


@contextmanager
def settled_in(directory: Path) -> Iterator[None]:
    """Run in a directory whose files alone say what is set."""
    before = dict(os.environ)
    for name in before.keys() - clean_environment(before).keys():
        del os.environ[name]
    try:
        with chdir(directory):
            yield
    finally:
        os.environ.update(before)
