"""A first set-up: `.env` and `syncctl.toml` written together, or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syncctl.errors import ConfigurationError, UsageError
from syncctl.settings.dotenv_file import ENV_FILE
from syncctl.settings.env_file import EnvFile
from syncctl.settings.load import load_settings
from syncctl.settings.render import render_toml
from syncctl.settings.toml_file import TOML_FILE, read_toml

Streams = Mapping[str, Mapping[str, Any]]
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def draft_setup(directory: Path, values: Mapping[str, str], streams: Streams) -> dict[str, str]:
    """Return the files that differ from what is there, by name.

    Args:
        values: What `.env` is to hold, by name; what else it holds stays, and what it lacks is added.
        streams: What `syncctl.toml` is to hold, by stream; without any, one that is there stays as it is.

    Raises:
        ConfigurationError: a file that is there cannot be read, or a value is wrong.
    """
    env = EnvFile(directory)
    present = (directory / TOML_FILE).exists()
    keeps = present and not streams
    texts = {ENV_FILE: env.merge(values, elsewhere=read_toml(directory / TOML_FILE)[0].keys() if keeps else ())}
    if not keeps:
        texts[TOML_FILE] = render_toml(streams)
    _validate(directory, values, streams, texts)
    return {name: text for name, text in texts.items() if name != ENV_FILE or text != env.text}


def _validate(directory: Path, values: Mapping[str, str], streams: Streams, texts: Mapping[str, str]) -> None:
    """Load what would be written: first under the names of the flags, then from the files themselves."""
    given: dict[str, Any] = {name.lower(): value for name, value in values.items() if value}
    names = {key: f"--{key.replace('_', '-')}" for key in given}
    for stream, below in streams.items():
        given[f"streams.{stream}"], names[f"streams.{stream}"] = {}, "--stream"
        given |= {f"streams.{stream}.{key}": value for key, value in below.items()}
        names |= {f"streams.{stream}.{key}": f"--{key}" for key in below}
    with tempfile.TemporaryDirectory(prefix="syncctl-init-") as draft:
        try:
            load_settings(directory=draft, flags=given, flag_names=names, environment={})
            if TOML_FILE not in texts:
                shutil.copyfile(directory / TOML_FILE, Path(draft) / TOML_FILE)
            for name, text in texts.items():
                (Path(draft) / name).write_text(text, encoding="utf-8", newline="")
            load_settings(directory=draft, environment=_find_references(Path(draft)), files_from=directory.absolute())
        except ConfigurationError as error:
            error.hint = "nothing was written; correct what is named and run syncctl init again"
            raise


def _find_references(directory: Path) -> dict[str, str]:
    """Return the variables of the environment that the files in a directory refer to, as `${NAME}`."""
    found = "".join(path.read_text(encoding="utf-8-sig", errors="replace") for path in directory.iterdir())
    names = {name for reference in _REFERENCE.findall(found) for name in (reference, f"{reference}_FILE")}
    return {name: os.environ[name] for name in names if name in os.environ}


def write_setup(directory: Path, texts: Mapping[str, str]) -> None:
    """Write files, or none of them; a `syncctl.toml` that is there is kept as `syncctl.toml.old`.

    Raises:
        UsageError: the directory cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for name, text in texts.items():
            # A .env that is a link stays one: what it leads to is replaced.
            path = (directory / name).resolve() if name == ENV_FILE else directory / name
            drafts[path] = write_draft(path, text, mode=0o600 if name == ENV_FILE else 0o644)
        if TOML_FILE in texts and (directory / TOML_FILE).exists():
            (directory / TOML_FILE).replace(directory / f"{TOML_FILE}.old")
        for path, draft in drafts.items():
            draft.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write to {directory.absolute()}",
            why=error.strerror or "",
            hint="check the directory and its permissions",
        ) from error
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def write_draft(path: Path, text: str, *, mode: int) -> Path:
    """Write a file beside its final place, so that no reader sees half of it or a secret others may read.

    Raises:
        OSError: the directory cannot be written; nothing is left behind.
    """
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft
