"""`syncctl init`: write `.env` and `syncctl.toml`, and create the ledger's indexes."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.console import out
from syncctl.errors import ConfigurationError, ExitCode, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from syncctl.commands.setup_conversation import Answers
    from syncctl.settings import Settings
    from syncctl.settings.dotenv_file import DotenvFile

_STREAM_FLAGS = ("table", "cursor", "mode", "key", "start", "endpoint")


@dataclass(kw_only=True, slots=True)
class Initialised:
    """The result of `init`."""

    directory: str
    #: The names of the files that were written.
    written: list[str] = field(default_factory=list)
    #: The indexes that were created; None if `init` did not reach the ledger.
    indexes: list[str] | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Show a warning, and keep it for the JSON document."""
        self.warnings.append(text)
        out.warn(text)


def init(
    ctx: typer.Context,
    source_url: Annotated[
        str | None,
        typer.Option("--source-url", metavar="URL", help="SQL Server's URL; - prompts for it. Default: $SOURCE_URL."),
    ] = None,
    partner_url: Annotated[
        str | None,
        typer.Option("--partner-url", metavar="URL", help="The URL of the partner's API. Default: $PARTNER_URL."),
    ] = None,
    partner_token: Annotated[
        str | None,
        typer.Option(
            "--partner-token", metavar="TOKEN", help="The partner's token; - prompts for it. Default: $PARTNER_TOKEN."
        ),
    ] = None,
    mongo_url: Annotated[
        str | None,
        typer.Option("--mongo-url", metavar="URL", help="MongoDB's URL. Default: $MONGO_URL, or this machine."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option("--redis-url", metavar="URL", help="Redis's URL. Default: $REDIS_URL, or this machine."),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option("--stream", metavar="NAME", help="The name of a first stream; needs --table and --start."),
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="The table it reads, such as dbo.orders.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="START", help="Where it starts: beginning, now or a cursor value."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="ENDPOINT", help='The endpoint it calls. Default: "POST /NAME".')
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="COLUMN", help="A key column; may be repeated. Default: the primary key."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="rowversion, increasing, change_tracking, flag or snapshot. Default: rowversion if the table has such"
            " a column, otherwise increasing. syncctl inspect TABLE names the safest mode.",
        ),
    ] = None,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="COLUMN", help="The column that shows which rows are new.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Let flags replace values in .env, and --stream replace syncctl.toml (moved to syncctl.toml.old).",
        ),
    ] = False,
    indexes: Annotated[
        bool | None,
        typer.Option("--indexes/--no-indexes", help="Only create the indexes, or only write the files."),
    ] = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Write .env and syncctl.toml, and create the ledger's indexes.

    On a terminal and without options it asks: it tries each address as soon as you enter it, lists the tables, proposes
    how to read one, says how many rows would be sent, and appends the stream to an existing syncctl.toml. Nothing is
    written before the end.

    With options it asks nothing. An existing .env keeps its values, comments and order; missing values are added. An
    existing syncctl.toml is not changed. Nothing is written (exit code 2) if a value is invalid, or if a flag
    contradicts a file and --force is not given. Pass secrets in the environment or with -, so that they stay out of the
    shell's history. Exit code 69: the files are written, but MongoDB cannot be reached.

    Examples:
        syncctl init
        syncctl init --stream orders --table dbo.orders --start now
        syncctl init --source-url - --partner-token -
        syncctl init --indexes
    """
    done = Initialised(directory=str(ctx.obj.directory.absolute()))
    connections = (source_url, partner_url, partner_token, mongo_url, redis_url)
    described = (stream, table, start, endpoint, key, mode, cursor)
    asks = not any((*connections, *described, force, as_json)) and indexes is None and out.is_interactive()
    answers = _converse(ctx.obj.directory, done) if asks else None
    if asks and answers is None:
        return ExitCode.TROUBLE
    if indexes is not True and not asks:
        stream_values = _gather_stream(
            stream, table=table, cursor=cursor, mode=mode, key=key, start=start, endpoint=endpoint
        )
        urls = {"redis_url": redis_url, "mongo_url": mongo_url, "source_url": source_url}
        urls |= {"partner_url": partner_url, "partner_token": partner_token}
        _write_files(ctx.obj.directory, urls, stream_values, force=force, done=done)
    code = ExitCode.DONE if indexes is False else _create_indexes(ctx, done)
    if as_json:
        out.print_json(done)
    added = answers.section.name if answers and answers.section else None
    _say_next(ctx, without_mongodb=code is ExitCode.UNAVAILABLE, added=added)
    return code


def _converse(directory: Path, done: Initialised) -> "Answers | None":
    """Ask for everything, write it, and return the answers; None if the user declines to write them.

    Raises:
        UsageError: the input ended, or the directory cannot be written.
    """
    from syncctl.commands.setup_conversation import converse
    from syncctl.settings.setup_files import draft_setup, write_setup
    from syncctl.settings.toml_file import TOML_FILE

    try:
        answers = converse(directory)
    except EOFError:
        out.say()
        hint = "run it again; with options it asks nothing: syncctl init --help"
        raise UsageError("the input ended before the last answer", why="nothing was written", hint=hint) from None
    except KeyboardInterrupt:
        out.say("\nnothing was written")
        raise
    if answers is None:
        out.say("nothing was written")
        return None
    section, is_new = answers.section, not (directory / TOML_FILE).exists()
    streams = {} if section is None else {section.name: section.values}
    texts = draft_setup(directory, answers.values, streams, section=None if section is None else section.render())
    if section is not None and is_new:
        texts[TOML_FILE] += section.children
    write_setup(directory, texts, keep_old=False)
    done.written = list(texts)
    _warn_of_overruled(answers.values, done)
    for name in done.written:
        out.say(f"wrote {directory / name}")
    return answers


def _gather_stream(name: str | None, **flags: Any) -> dict[str, dict[str, Any]]:
    """Return the stream that the flags describe, by its name; empty if --stream is not given.

    Raises:
        UsageError: --stream is missing, its name is invalid, or its table or start is missing.
    """
    from syncctl.settings.field_types import check_name

    given = {key: flags[key] for key in _STREAM_FLAGS if flags[key]}
    if name is None:
        if given:
            flag = next(iter(given))
            raise UsageError(
                f"--{flag} needs --stream", why="it describes a stream", hint=f"add --stream NAME to --{flag}"
            )
        return {}
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"--stream {name!r} {error}", hint="for example: --stream orders") from None
    for flag, sample in (("table", "dbo.orders"), ("start", "beginning, --start now or --start with a cursor value")):
        if flag not in given:
            raise UsageError(
                f"--stream {name} needs --{flag}",
                why="it has no default, so that old rows are never sent by accident"
                if flag == "start"
                else "a stream reads a table",
                hint=f"add --{flag} {sample}",
            )
    return {name: {"endpoint": f"POST /{name}", **given}}


def _write_files(
    directory: Path,
    flags: Mapping[str, str | None],
    streams: Mapping[str, Mapping[str, Any]],
    *,
    force: bool,
    done: Initialised,
) -> None:
    """Write missing values, to both files or to neither.

    Raises:
        ConfigurationError: a value is invalid.
        UsageError: a flag contradicts a file, or the directory cannot be written.
    """
    from syncctl.settings.setup_files import draft_setup, write_setup
    from syncctl.settings.toml_file import TOML_FILE

    if streams and (directory / TOML_FILE).exists() and not force:
        raise UsageError(
            f"{TOML_FILE} already exists",
            why=f"it is in {directory.absolute()}, and init does not replace streams unless asked",
            hint=f"add [streams.{next(iter(streams))}] to it yourself, or add --force to replace it",
        )
    values = _gather_values(directory, flags, force=force, done=done)
    texts = draft_setup(directory, values, streams)
    kept = [name for name in (".env", TOML_FILE) if (directory / name).exists() and name not in texts]
    added = [name for name in texts if name != TOML_FILE and (directory / name).exists()]
    write_setup(directory, texts)
    done.written = list(texts)
    _warn_of_overruled(values, done)
    for name in done.written:
        out.say(f"{'added missing values to' if name in added else 'wrote'} {directory / name}")
    for name in kept:
        out.say(f"left {directory / name} unchanged")


def _warn_of_overruled(values: Mapping[str, str], done: Initialised) -> None:
    from syncctl.settings.setup_files import list_overruled

    for sentence in list_overruled(values):
        done.warn(sentence)


def _gather_values(
    directory: Path, flags: Mapping[str, str | None], *, force: bool, done: Initialised
) -> dict[str, str]:
    """Return the values to write to `.env`: those of flags, and those of the environment that `.env` lacks.

    Raises:
        UsageError: a flag contradicts `.env`, and --force was not given.
    """
    from syncctl.core.redaction import find_secrets
    from syncctl.settings.dotenv_file import DotenvFile

    env = DotenvFile(directory)
    values: dict[str, str] = {}
    for key, given in flags.items():
        flag, name = f"--{key.replace('_', '-')}", key.upper()
        if given is not None:
            values[name] = _ask(flag) if given == "-" else given
            if given != "-" and (key == "partner_token" or find_secrets(given)):
                done.warn(
                    f"the secret in {flag} is now in the shell's history; next time use {flag} -, which prompts for it"
                )
            _check_agreement(env, flag, name, values[name], force=force)
        elif os.environ.get(name) and env.find(name) is None:
            values[name] = os.environ[name]
            out.say(f"took {name} from the environment")
    return values


def _check_agreement(env: "DotenvFile", flag: str, name: str, value: str, *, force: bool) -> None:
    """Check that a flag does not contradict `.env`, unless forced.

    Raises:
        UsageError: the flag contradicts `.env`.
    """
    variable = env.find(name)
    if variable is None or (variable.upper() == name and (force or env.get(variable) == value)):
        return
    if variable.upper() == name:
        hint = f"omit {flag} to keep that value, or add --force to replace it"
    else:
        hint = f"omit {flag}, or remove {variable} from .env"
    raise UsageError(f"{flag} contradicts .env", why=f"{env.locate(variable)} already sets {variable}", hint=hint)


def _ask(flag: str) -> str:
    """Read a secret: from a terminal without echo, otherwise one line of stdin."""
    if not out.is_interactive():
        line = sys.stdin.readline()
        if not line.strip():
            raise UsageError(f"{flag} - has nothing to read", why="stdin is empty", hint="write one line to stdin")
        return line.rstrip("\r\n")
    from getpass import getpass

    return getpass(f"{flag.removeprefix('--')}: ")


def _create_indexes(ctx: typer.Context, done: Initialised) -> ExitCode:
    """Create the ledger's indexes. Safe to repeat."""
    from syncctl.commands.session import open_session

    try:
        with open_session(ctx) as connections, out.progress("creating indexes"):
            done.indexes = connections.ledger.prepare()
    except ServiceUnavailable as error:
        done.warn(f"no indexes were created: {error}")
        return ExitCode.UNAVAILABLE
    out.say(f"the ledger's indexes are in place: {len(done.indexes)} created")
    return ExitCode.DONE


def _say_next(ctx: typer.Context, *, without_mongodb: bool, added: str | None = None) -> None:
    """Say what remains to be done before everything can be checked, or how to start a stream that was added."""
    try:
        settings: Settings = ctx.obj.settings()
    except ConfigurationError:
        out.say("next: syncctl doctor")
        return
    sources = (settings.source_url, *(source.url for source in settings.sources.values()))
    partners = (settings.partner_url, *(partner.url for partner in settings.partners.values()))
    missing = [name for name, urls in (("SOURCE_URL", sources), ("PARTNER_URL", partners)) if not any(urls)]
    steps = [f"set {' and '.join(missing)} in .env"] if missing else []
    steps += [] if settings.streams else ["add a stream to syncctl.toml"]
    steps += ["start MongoDB (on this machine: syncctl local up)"] if without_mongodb else []
    if added and not steps:
        out.say(f"next: syncctl poll {added} --dry-run --known    to see its first requests; nothing is sent")
        out.say("      syncctl worker --beat    to start; then, in another terminal: syncctl status")
        return
    command = "syncctl init --indexes" if without_mongodb else "syncctl doctor"
    out.say(f"next: {'; '.join([*steps, f'then run: {command}']) if steps else command}")
