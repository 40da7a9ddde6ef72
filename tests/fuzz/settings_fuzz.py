"""Random set-ups: `.env`, `syncctl.toml` and variables. Each loads, or is refused with what to do."""

import random
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from syncctl.core.redaction import redact
from syncctl.errors import SyncctlError, UsageError
from syncctl.settings import Settings, describe_settings, load_settings
from syncctl.settings.describe import fingerprint_settings
from syncctl.settings.field_types import show_toml
from syncctl.settings.render import SAMPLE_STREAM, render_env, render_toml
from syncctl.settings.schema_paths import list_values
from tests.fuzz.trial import Hang, limit_time
from tests.fuzz.values import UNDECODABLE, draw_literal, draw_text

SECONDS = 15.0
_URLS = (("SOURCE_URL", "sqlite:///x.db"), ("PARTNER_URL", "https://h"), ("PARTNER_TOKEN", "t"))
_NAMED = {
    "sources": ["default"],
    "partners": ["default"],
    "streams": ["orders"],
    "streams.orders.children": ["lines"],
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The files of a directory, and the environment."""

    dotenv: bytes
    toml: bytes
    environment: dict[str, str]


def try_settings(seed: int, number: int) -> str | None:
    """Draw a set-up and load it; return what is wrong with how it ends, None if nothing is."""
    setup = draw_setup(random.Random(f"{seed} settings {number}"))
    with tempfile.TemporaryDirectory(prefix="syncctl-fuzz-") as name:
        directory = Path(name)
        (directory / ".env").write_bytes(setup.dotenv)
        (directory / "syncctl.toml").write_bytes(setup.toml)
        try:
            with limit_time(SECONDS):
                use_settings(load_settings(directory=directory, environment=setup.environment))
        except UsageError as error:
            return None if error.what and error.hint else f"no hint: {error}"
        except (Exception, Hang):  # noqa: BLE001 - whatever else comes out is what the fuzz looks for
            return traceback.format_exc()
    return None


def use_settings(settings: Settings) -> None:
    """Do with settings what commands do before they reach a service."""
    secrets = settings.secrets()
    redact(str(describe_settings(settings)), secrets)
    fingerprint_settings(settings)
    for name in settings.stream_names:
        stream = settings.stream(name)
        for make in (lambda: settings.source(stream.source), lambda: settings.partner(stream.partner)):  # noqa: B023
            try:
                make()
            except SyncctlError as error:
                if not isinstance(error, UsageError):
                    raise


def draw_setup(rng: random.Random) -> Setup:
    """Return a set-up: mostly a right one with a few wrong values, sometimes one whose bytes are changed."""
    lines = {f"streams.orders.{key}": show_toml(value) for key, value in SAMPLE_STREAM.items()}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        path, field = draw_path(rng)
        lines[".".join(path)] = draw_literal(rng) if field is None or rng.random() < 0.6 else show_toml(sample(field))
    if rng.random() < 0.1:
        del lines[rng.choice(list(lines))]
    toml = "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("utf-8", "surrogatepass")
    dotenv = "".join(f"{name}={value}\n" for name, value in [*_URLS, *draw_variables(rng)]).encode()
    environment = dict(draw_variables(rng))
    if rng.random() < 0.03:
        environment[draw_name(rng)] = rng.choice(UNDECODABLE)
    if rng.random() < 0.15:
        toml = change_bytes(rng, render_toml({"orders": SAMPLE_STREAM}).encode())
    if rng.random() < 0.1:
        dotenv = change_bytes(rng, render_env({}, complete=True).encode())
    return Setup(dotenv=dotenv, toml=toml, environment=environment)


def draw_variables(rng: random.Random) -> Sequence[tuple[str, str]]:
    """Return no variable, or a few."""
    return [(draw_name(rng), draw_text(rng)) for _ in range(rng.choice((0, 0, 0, 1, 2)))]


def sample(field: FieldInfo) -> Any:
    """Return a right value of a field."""
    return field.default if field.default not in (None, (), {}, PydanticUndefined) else (field.examples or [""])[0]


@cache
def list_paths() -> Sequence[tuple[tuple[str, ...], FieldInfo]]:
    """Return the settings of a few sections."""
    return list(list_values(Settings, _NAMED))


def draw_path(rng: random.Random) -> tuple[tuple[str, ...], FieldInfo | None]:
    """Return the path of a setting and its field, now and then a path that does not exist."""
    path, field = rng.choice(list_paths())
    match rng.randint(0, 29):
        case 0:
            return path[:-1] or path, None
        case 1:
            return (*path, "x"), None
        case 2:
            return (*path[:-1], f"{path[-1]}x"), None
        case _:
            return path, field


def draw_name(rng: random.Random) -> str:
    """Return the name of the variable of a setting, or of the file that holds it."""
    name = "__".join(draw_path(rng)[0]).upper().replace("-", "_" if rng.random() < 0.5 else "-")
    return name + rng.choice(("", "", "", "", "_FILE", "__X"))


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return a file in which a few bytes are changed, or that is cut, doubled or in another encoding."""
    changed = bytearray(content.replace(b"\n#", b"\n") if rng.random() < 0.5 else content)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(changed))
        match rng.randint(0, 3):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                del changed[at : at + rng.randint(1, 40)]
            case 2:
                changed[at:at] = rng.choice((b"\0", b"=", b"[", b'"', b"'''", b"{", b"${", b"\r", b"\xff\xfe"))
            case _:
                changed[at:at] = changed[at : at + rng.randint(1, 200)]
    if rng.random() < 0.05:
        return bytes(changed).decode("utf-8", "replace").encode("utf-16")
    return bytes(changed)
