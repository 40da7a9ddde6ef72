"""The files of a set-up: `init` writes `.env` and `syncctl.toml` together, `inspect --write` appends a stream."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syncctl.core.files import write_draft
from syncctl.errors import ConfigurationError, UsageError
from syncctl.settings.dotenv_file import ENV_FILE, DotenvFile, quote_env
from syncctl.settings.load import load_settings
from syncctl.settings.render import CONNECTIONS, render_connection, render_env, render_toml
from syncctl.settings.toml_file import TOML_FILE, read_toml

Streams = Mapping[str, Mapping[str, Any]]
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def draft_setup(
    directory: Path, values: Mapping[str, str], streams: Streams, *, section: str | None = None
) -> dict[str, str]:
    """Return the new texts of the files that would change, by name.

    Args:
        values: Variables for `.env`; its other variables stay, and missing ones are added.
        streams: The streams of `syncctl.toml`; without any, an existing file stays as it is.
        section: The streams as TOML, to be appended to an existing `syncctl.toml` instead of replacing it.

    Raises:
        ConfigurationError: an existing file cannot be read, or a value is wrong.
    """
    env = DotenvFile(directory)
    exists = (directory / TOML_FILE).exists()
    keeps = exists and (not streams or section is not None)
    texts = {ENV_FILE: merge_env(env, values, elsewhere=read_toml(directory / TOML_FILE)[0].keys() if keeps else ())}
    if not keeps:
        texts[TOML_FILE] = render_toml(streams)
    elif section is not None:
        texts[TOML_FILE] = _append(directory / TOML_FILE, section)
    with _refuse_wrong("nothing was written; correct these settings and run syncctl init again"):
        _load_flags(values, {} if section is not None else streams)
        with tempfile.TemporaryDirectory(prefix="syncctl-init-") as draft:
            if keeps:
                shutil.copyfile(directory / TOML_FILE, Path(draft) / TOML_FILE)
            for name, text in texts.items():
                (Path(draft) / name).write_text(text, encoding="utf-8", newline="")
            load_settings(directory=draft, environment=_find_references(Path(draft)), files_from=directory.absolute())
    return {name: text for name, text in texts.items() if name != ENV_FILE or text != env.text}


def merge_env(env: DotenvFile, given: Mapping[str, str], *, elsewhere: Collection[str] = ()) -> str:
    """Return the text of a `.env` with these values, and with every connection that it lacks.

    Args:
        given: Values by name; they replace those of the file.
        elsewhere: Connections that another file sets: a default in `.env` would override them.
    """
    if env.text is None:
        return render_env({name: value for name, value in given.items() if value})
    text = env.change(given)
    end = "\r\n" if "\r\n" in text else "\n"
    lines: list[str] = []
    for key in CONNECTIONS:
        name = key.upper()
        if name in given and not env.has(name):
            lines += render_connection(key, given[name])
        elif not env.has(name) and env.find(name) is None and key not in elsewhere:
            lines += render_connection(key, None)
    if text and lines and not text.endswith(("\n", "\r")):
        text += end
    return text + "".join(f"{line}{end}" for line in lines)


def _load_flags(values: Mapping[str, str], streams: Streams) -> None:
    """Load the values alone, so that errors name the flags that they come from."""
    given: dict[str, Any] = {name.lower(): value for name, value in values.items() if value}
    names = {key: f"--{key.replace('_', '-')}" for key in given}
    for stream, keys in streams.items():
        given[f"streams.{stream}"], names[f"streams.{stream}"] = {}, "--stream"
        given |= {f"streams.{stream}.{key}": value for key, value in keys.items()}
        names |= {f"streams.{stream}.{key}": f"--{key}" for key in keys}
    with tempfile.TemporaryDirectory(prefix="syncctl-init-") as empty:
        load_settings(directory=empty, flags=given, flag_names=names, environment={})


def _find_references(directory: Path) -> dict[str, str]:
    """Return the variables of the environment that the files in a directory refer to, as `${NAME}`."""
    texts = "".join(path.read_text(encoding="utf-8-sig", errors="replace") for path in directory.iterdir())
    names = {name for reference in _REFERENCE.findall(texts) for name in (reference, f"{reference}_FILE")}
    return {name: os.environ[name] for name in names if name in os.environ}


def write_setup(directory: Path, texts: Mapping[str, str], *, keep_old: bool = True) -> None:
    """Write all of these files, or none.

    Args:
        keep_old: Whether an existing `syncctl.toml` is kept as `syncctl.toml.old`.

    Raises:
        UsageError: the directory cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for name, text in texts.items():
            # A symbolic link stays: the file that it points to is replaced.
            path = (directory / name).resolve() if name == ENV_FILE or not keep_old else directory / name
            drafts[path] = write_draft(path, text, mode=0o600 if name == ENV_FILE else _find_mode(path))
        if keep_old and TOML_FILE in texts and (directory / TOML_FILE).exists():
            (directory / TOML_FILE).replace(directory / f"{TOML_FILE}.old")
        for path, draft in drafts.items():
            draft.replace(path)
    except OSError as error:
        raise _make_write_error(directory.absolute(), error) from error
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def save_values(directory: Path, values: Mapping[str, str]) -> None:
    """Write these variables to `.env`, and leave the rest of the file unchanged.

    A new file replaces the old one, so that a process that has the old file open, or could read it, does not see them.

    Raises:
        UsageError: the file cannot be written.
        ConfigurationError: the file cannot be read.
    """
    env = DotenvFile(directory)
    text = env.change(values)
    end = "\r\n" if "\r\n" in text else "\n"
    if text and not text.endswith(("\n", "\r")):
        text += end
    text += "".join(f"{name}={quote_env(value)}{end}" for name, value in values.items() if not env.has(name))
    write_setup(directory, {ENV_FILE: text})


def list_overruled(values: Mapping[str, str]) -> list[str]:
    """Return a sentence for each of these variables of `.env` that has another value in the environment."""
    environment = {name.upper(): (name, value) for name, value in os.environ.items() if value}
    overruling = [
        (name, environment[other][0])
        for name, value in values.items()
        for other in (name, f"{name}_FILE")
        if other in environment and environment[other][1] != value
    ]
    return [
        f"{variable} in the environment overrules {name} in .env: unset {variable}, or what .env says has no effect"
        for name, variable in overruling
    ]


def check_appendable(directory: Path) -> None:
    """Check that a stream can be appended to `syncctl.toml`, if there is one.

    Raises:
        ConfigurationError: the file is not TOML, or its streams are an inline table, which no section can extend.
    """
    with _refuse_wrong("nothing was written"), tempfile.TemporaryDirectory(prefix="syncctl-append-") as draft:
        path = Path(draft) / TOML_FILE
        path.write_text(_append(directory / TOML_FILE, "[streams.one-more]\n"), encoding="utf-8", newline="")
        read_toml(path)


def append_stream(directory: Path, name: str, block: str) -> Path:
    """Append a stream's section to `syncctl.toml`, which is created if there is none; return its path.

    The file stays as it is, byte for byte, before the section. Nothing is written unless the settings load with it.

    Raises:
        UsageError: the stream exists already, or the directory cannot be written.
        ConfigurationError: the settings would not load with it.
    """
    path = (directory / TOML_FILE).resolve()
    longer = _append(path, block)
    if name in load_settings(directory=directory).layers.merged.get("streams", {}):
        raise UsageError(
            f"there is a stream {name} already",
            why="a name belongs to one stream, and to its cursor in the ledger",
            hint="add --stream with another name",
        )
    with (
        _refuse_wrong("nothing was written; correct these settings and run it again"),
        tempfile.TemporaryDirectory(prefix="syncctl-append-") as draft,
    ):
        if (directory / ENV_FILE).is_file():
            shutil.copyfile(directory / ENV_FILE, Path(draft) / ENV_FILE)
        (Path(draft) / TOML_FILE).write_text(longer, encoding="utf-8", newline="")
        load_settings(directory=draft, environment=os.environ, files_from=directory.absolute())
    try:
        write_draft(path, longer, mode=_find_mode(path)).replace(path)
    except OSError as error:
        raise _make_write_error(path, error) from error
    return directory / TOML_FILE


def _append(path: Path, section: str) -> str:
    """Return the text of a file, unchanged byte for byte, with a section after it."""
    text = path.read_bytes().decode("utf-8") if path.is_file() else ""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text.strip("\ufeff") else end if text.endswith(("\n", "\r")) else end * 2
    return text + gap + section.replace("\n", end)


def _find_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644


@contextmanager
def _refuse_wrong(hint: str) -> Iterator[None]:
    """Make errors of the settings say that nothing was written."""
    try:
        yield
    except ConfigurationError as error:
        # `streams = { ... }` on one line is an inline table, which TOML lets no section extend.
        if "TOML" in error.what:
            hint = "nothing was written; write streams in syncctl.toml as [streams.NAME], then run it again"
        error.hint = hint
        raise


def _make_write_error(path: Path, error: OSError) -> UsageError:
    hint = "check the directory and its permissions"
    return UsageError(f"cannot write to {path}", why=error.strerror or "", hint=hint)
