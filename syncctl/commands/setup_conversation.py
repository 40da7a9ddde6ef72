"""The conversation of `syncctl init` on a terminal.

Each answer is tried at once, on the real service. Nothing is written here: `init` writes the answers.
"""

import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from syncctl.commands.doctor import choose_signs
from syncctl.commands.inspect import ONLY_FROM_BEGINNING, name_stream, propose_row_path, propose_section, title_of
from syncctl.console import format_count, out
from syncctl.console.tables import Table, to_plain
from syncctl.core.redaction import REDACTED, find_secrets, mask_url, redact
from syncctl.errors import ConfigurationError, SyncctlError, UsageError

if TYPE_CHECKING:
    from syncctl.commands.inspect import Section
    from syncctl.doctor.check import Finding
    from syncctl.doctor.examination import Services
    from syncctl.settings import Settings
    from syncctl.sources.catalog.inspection import Inspection
    from syncctl.sources.catalog.proposal import InspectedTable

TRY_SECONDS = 10.0
TABLES_AT_MOST = 40
WIDTH = 79
SKIP = "skip"

_PROBE = "init-probe"
_USER_ALONE = re.compile(r"^[a-z][a-z0-9+.-]*://[^/?#@:]+(?=@)", re.IGNORECASE)
_REFUSED = re.compile(r"\b40[13]\b")
_CONNECTIONS = {
    "source_url": "Source: the database that is read",
    "mongo_url": "MongoDB: keeps the ledger",
    "redis_url": "Redis: wakes the workers",
    "partner_url": "Partner: the API that rows are sent to",
}


@dataclass(kw_only=True, slots=True)
class Answers:
    """The user's answers, which are not written yet."""

    #: Variables for `.env`.
    values: dict[str, str] = field(default_factory=dict)
    #: The new stream; None if the user chose no table.
    section: "Section | None" = None


def converse(directory: Path) -> Answers | None:
    """Ask for the connections and a stream; return the answers, or None if the user declines to write them.

    Raises:
        EOFError: The input ended.
        ConfigurationError: The files of the directory are wrong already, or no stream can be appended to them.
    """
    from syncctl.settings.setup_files import check_appendable

    check_appendable(directory)
    return _Conversation(directory).run()


class _Conversation:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers = Answers()
        self._inspection: Inspection | None = None
        self._finding: Finding | None = None

    def run(self) -> Answers | None:
        out.say(f"This sets up syncctl in {self._directory.absolute()}.")
        out.say("Each answer is tried right away. Nothing is written before the end, so Ctrl-C")
        out.say(f"leaves everything as it is. Write {REDACTED} in place of a password: it is asked for")
        out.say(f"next, hidden. Type {SKIP} to leave a service for later.")
        settings = self._load()
        source = _choose_one("source", settings.sources)
        partner = _choose_one("partner", settings.partners)
        is_readable = self._connect("source_url", source, self._look_at_source)
        self._connect("mongo_url", "", _look_at_mongodb)
        self._connect("redis_url", "", _look_at_redis)
        if self._connect("partner_url", partner, _look_at_partner):
            self._ask_for_better_token(partner)
        if is_readable:
            self._answers.section = self._ask_stream(source, partner)
        return self._answers if self._confirm() else None

    def _load(self, section: "Section | None" = None, partner: str = "default") -> "Settings":
        """Read the settings as they would be with the answers so far."""
        from syncctl.settings import load_settings

        stream: Mapping[str, Any] = {"table": "t", "start": "now", "endpoint": "POST /", "partner": partner}
        name = _PROBE
        if section is not None:
            name, stream = section.name, section.values
        flags: dict[str, Any] = {key.lower(): value for key, value in self._answers.values.items() if value}
        flags |= {f"streams.{name}": {}, **{f"streams.{name}.{key}": value for key, value in stream.items()}}
        return load_settings(directory=self._directory, flags=flags, flag_names=dict.fromkeys(flags, "your answer"))

    # The connections.

    def _connect(self, key: str, name: str, look: "Callable[[Services, str], Finding]") -> bool:
        """Ask for the URL of a connection until it works or the user skips it; return whether it works."""
        out.say(f"\n{_CONNECTIONS[key]}")
        value, origin = self._find_value(key, name)
        variable, default = key.upper(), "" if origin else value
        if origin:
            _say_wrapped(f"{mask_url(value)} ({origin})")
            self._say_kept_overruled(variable)
            if self._try(look, name):
                return True
        while True:
            is_set = bool(origin) or variable in self._answers.values
            after = (
                f" (Enter: try again, or {SKIP})" if is_set else f" [{default}]" if default else f" ({_sample(key)})"
            )
            text = out.ask(f"  URL{after}: ").strip()
            if text == SKIP:
                for left_out in (variable, "PARTNER_TOKEN" if key == "partner_url" else variable):
                    self._answers.values.pop(left_out, None)
                return False
            if text and name not in ("", "default"):
                out.say(f"  the settings name the URL of {name}; correct it there, then press Enter")
                continue
            if text:
                self._answers.values[variable] = _ask_password(text)
                _say_overruled({variable: self._answers.values[variable]})
            elif default and not is_set:
                self._answers.values[variable] = default
            elif not is_set:
                continue
            if text and key == "partner_url":
                self._ask_token("  Bearer token (hidden; Enter for none): ")
            if self._try(look, name):
                return True

    def _say_kept_overruled(self, variable: str) -> None:
        """Warn if `.env` has another value for this variable than the environment, which takes precedence."""
        from syncctl.settings.dotenv_file import DotenvFile

        env = DotenvFile(self._directory)
        name = env.find(variable)
        if name is not None:
            _say_overruled({name: env.get(name)})

    def _find_value(self, key: str, name: str) -> tuple[str, str]:
        """Return the URL in force, and where it is set; the place is empty for a default."""
        settings = self._load()
        tables: dict[str, Mapping[str, Any]] = {"source_url": settings.sources, "partner_url": settings.partners}
        path = (f"{key.partition('_')[0]}s", name, "url") if key in tables else (key,)
        value = tables[key][name].url if key in tables else getattr(settings, key)
        origin = settings.layers.find_origin(path) or settings.layers.find_origin((key,))
        return value or "", (origin or "") if value else ""

    def _try(self, look: "Callable[[Services, str], Finding]", name: str) -> bool:
        """Try the answers so far on the service, show the result, and return whether the service works."""
        from syncctl.doctor.check import Status, explain, failed
        from syncctl.doctor.examination import Services

        secrets = {secret for value in self._answers.values.values() for secret in find_secrets(value)}
        try:
            settings = self._load(partner=name or "default")
            secrets |= settings.secrets()
            services = Services(settings, timeout_seconds=TRY_SECONDS)
            try:
                with out.progress("  trying"):
                    finding = look(services, name)
            finally:
                services.close()
        except ConfigurationError as error:
            finding = failed(error.why or error.what, "")
        except SyncctlError as error:
            finding = explain(error)
        self._finding = finding
        _show(finding, secrets)
        return finding.status is not Status.FAIL

    def _look_at_source(self, services: "Services", name: str) -> "Finding":
        from syncctl.doctor.check import passed
        from syncctl.sources.catalog.inspection import inspect_source

        self._inspection = inspect_source(services.source(name))
        count = len(self._inspection.tables)
        return passed(f"it answers, with {format_count(count, 'table')} and views that can be read")

    def _ask_token(self, question: str) -> bool:
        token = out.ask_secret(question)
        if token:
            self._answers.values["PARTNER_TOKEN"] = token
            _say_overruled({"PARTNER_TOKEN": token})
        return bool(token)

    def _ask_for_better_token(self, partner: str) -> None:
        """Ask for another token as long as the partner refuses the present one."""
        while partner == "default" and self._finding is not None and _REFUSED.search(self._finding.detail):
            if not self._ask_token("  Another token (hidden; Enter keeps the present one): "):
                return
            self._try(_look_at_partner, partner)

    # The stream.

    def _ask_stream(self, source: str, partner: str) -> "Section | None":
        """Ask which table to read, how and from where; return None if the user chooses no table."""
        table = self._ask_table(source)
        if table is None:
            return None
        table = self._ask_mode(source, self._ask_key(source, table))
        for line in table.advice:
            _say_wrapped(line)
        name = self._ask_name(table)
        endpoint = self._ask_endpoint(table, source, partner, name)
        section = self._ask_start(table, source, partner, name, endpoint)
        self._try_stream(section)
        return section

    def _inspect(self, source: str, table: str, **wanted: Any) -> "InspectedTable":
        from syncctl.sources.catalog.inspection import inspect_source

        return inspect_source(self._load().source(source), table, **wanted).tables[0]

    def _ask_table(self, source: str) -> "InspectedTable | None":
        tables = self._inspection.tables if self._inspection else ()
        out.say("\nStream: the table that is read")
        rows = [
            (at, table.table, table.rows, title_of(table.candidates[0]))
            for at, table in enumerate(tables[:TABLES_AT_MOST], start=1)
        ]
        if rows:
            _say_lines(to_plain(Table(columns=("no", "table", "rows", "safest mode"), rows=rows)))
        if len(tables) > TABLES_AT_MOST:
            out.say(f"  and {len(tables) - TABLES_AT_MOST:,} more, which can be named too")
        while True:
            text = out.ask("  Table, by number or name (Enter for none): ").strip()
            if not text:
                return None
            is_number = text.isdecimal() and 1 <= int(text) <= len(rows)
            try:
                return self._inspect(source, tables[int(text) - 1].table if is_number else text)
            except SyncctlError as error:
                _show_error(error)

    def _ask_key(self, source: str, table: "InspectedTable") -> "InspectedTable":
        """Ask for the columns that identify a row, if the catalog has no key."""
        while not table.key:
            text = out.ask("  It has no key. Columns that identify a row, with commas between them: ")
            try:
                columns = [column.strip() for column in text.split(",") if column.strip()]
                table = self._inspect(source, table.table, key=columns)
            except SyncctlError as error:
                _show_error(error)
        return table

    def _ask_mode(self, source: str, table: "InspectedTable") -> "InspectedTable":
        out.say(f"  {table.table}: key {', '.join(table.key)}; how it can be read, the safest first:")
        for at, candidate in enumerate(table.candidates, start=1):
            out.say(f"  {at}  {title_of(candidate)}{'' if candidate.indexed is not False else ', no index'}")
            _say_wrapped(candidate.why, indent="     ")
        at = _ask_number("  Mode", len(table.candidates))
        chosen = table.candidates[at - 1]
        return table if at == 1 else self._inspect(source, table.table, key=table.key, chosen=chosen)

    def _ask_name(self, table: "InspectedTable") -> str:
        from syncctl.settings.field_types import check_name

        taken = self._load().streams
        default = name_stream(table.name)
        while default in taken:
            default = f"{default}_2"
        while True:
            name = out.ask(f"  Name of the stream [{default}]: ").strip() or default
            try:
                check_name(name)
            except ValueError as error:
                out.say(f"  {name!r} {error}")
                continue
            if name not in taken:
                return name
            out.say(f"  there is a stream {name} already")

    def _ask_endpoint(self, table: "InspectedTable", source: str, partner: str, name: str) -> str:
        from syncctl.core.remote_values import REMOTE
        from syncctl.partner.endpoint import find_placeholders
        from syncctl.settings.child_section import is_among

        default, row_path = f"POST /{name}", propose_row_path(name, table.key)
        too = f"; PUT {row_path} works too" if row_path else ""
        while True:
            endpoint = out.ask(f"  Endpoint{too} [{default}]: ").strip() or default
            columns = [column.name for column in table.columns]
            named = [name for name in find_placeholders(endpoint) if not name.startswith(REMOTE)]
            absent = [column for column in named if not is_among(column, columns)]
            if absent:
                _say_wrapped(f"{table.table} has no column {absent[0]}; it has {', '.join(columns)}")
                continue
            try:
                self._load(propose_section(table, source, stream=name, partner=partner, endpoint=endpoint))
            except ConfigurationError as error:
                _show_error(error)
            else:
                return endpoint

    def _ask_start(self, table: "InspectedTable", source: str, partner: str, name: str, endpoint: str) -> "Section":
        """Ask where the stream starts, and show how many rows its first poll sends."""
        section = propose_section(table, source, stream=name, partner=partner, endpoint=endpoint)
        mode, every = table.settings["mode"], "" if table.rows is None else f" ({format_count(table.rows, 'row')})"
        if mode in ONLY_FROM_BEGINNING:
            out.say(f"  mode {mode} starts at the beginning: its first poll sends every existing row{every}")
            return section
        what = f", or a value of {table.settings['cursor']}" if "cursor" in table.settings else ""
        while True:
            start = out.ask(f"  Start: now, beginning{every}{what} [now]: ").strip() or "now"
            section = propose_section(table, source, stream=name, start=start, partner=partner, endpoint=endpoint)
            try:
                _say_wrapped(self._describe_start(section, table, source))
            except SyncctlError as error:
                _show_error(error)
            else:
                return section

    def _describe_start(self, section: "Section", table: "InspectedTable", source: str) -> str:
        """Say how many rows the first poll sends.

        Raises:
            SyncctlError: The start is invalid, or the table cannot be read in the chosen way.
        """
        from syncctl.sources.reader import StreamReader

        settings = self._load(section)
        start = section.values["start"]
        if start == "now":
            return "no existing row is sent, only rows that are added or changed from now on"
        if start == "beginning" and table.rows is not None:
            return f"the first poll sends every existing row: {format_count(table.rows, 'row')}"
        limited = replace(settings.source(source), query_timeout_seconds=TRY_SECONDS)
        with StreamReader(limited, settings.stream(section.name)) as reader:
            count = reader.count_behind(reader.start_cursor())
        return f"the first poll sends {'every row after that' if count is None else format_count(count, 'row')}"

    def _try_stream(self, section: "Section") -> None:
        from syncctl.doctor.check import explain
        from syncctl.doctor.examination import Services
        from syncctl.doctor.source import check_stream

        settings = self._load(section)
        services = Services(settings, timeout_seconds=TRY_SECONDS)
        try:
            finding = check_stream(services, section.name)
        except SyncctlError as error:
            finding = explain(error)
        finally:
            services.close()
        _show(finding, settings.secrets())

    def _confirm(self) -> bool:
        """Show the text that would be written, and ask for consent."""
        values, section = self._answers.values, self._answers.section
        out.say("\nTo write")
        out.say(f"  .env (only you can read it): {', '.join(values) or 'the values that it lacks'}")
        if section is not None:
            verb = "append to" if (self._directory / "syncctl.toml").exists() else "in"
            out.say(f"  {verb} syncctl.toml:")
            _say_lines(section.render())
        return out.ask("Write this? [Y/n]: ").strip().lower() in ("", "y", "yes")


def _look_at_mongodb(services: "Services", _name: str) -> "Finding":
    from syncctl.doctor.mongodb import check_server

    return check_server(services)


def _look_at_redis(services: "Services", _name: str) -> "Finding":
    from syncctl.doctor.redis import check_server

    return check_server(services)


def _look_at_partner(services: "Services", name: str) -> "Finding":
    from syncctl.doctor.partner import check_partner

    return check_partner(services, name)


def _choose_one(what: str, sections: Mapping[str, Any]) -> str:
    """Return the one source or partner that has a URL, asking if there are several; `default` if there is none."""
    names = [name for name, section in sections.items() if section.url]
    if len(names) < 2:
        return names[0] if names else "default"
    while True:
        name = out.ask(f"  Which {what} ({', '.join(names)}) [{names[0]}]: ").strip() or names[0]
        if name in names:
            return name


def _ask_number(question: str, most: int) -> int:
    while True:
        text = out.ask(f"{question} [1]: ").strip() or "1"
        if text.isdecimal() and 1 <= int(text) <= most:
            return int(text)
        out.say(f"  write a number from 1 to {most}")


def _say_overruled(values: Mapping[str, str]) -> None:
    from syncctl.settings.setup_files import list_overruled

    for sentence in list_overruled(values):
        _say_wrapped(sentence, indent="  ! ", after="    ")


def _ask_password(url: str) -> str:
    """Return a URL with the password that is asked for: in place of `***`, or after a user without one."""
    if REDACTED in url:
        password = out.ask_secret("  Password (hidden): ")
        return url.replace(REDACTED, quote(password, safe="") if "://" in url else password)
    user = _USER_ALONE.match(url)
    if user is None:
        return url
    password = out.ask_secret("  Password (hidden; Enter for none): ")
    return f"{user[0]}:{quote(password, safe='')}{url[user.end() :]}" if password else url


def _sample(key: str) -> str:
    from syncctl.settings import Settings

    samples = Settings.model_fields[key].examples or [""]
    return f"such as {mask_url(str(samples[0]))}"


def _show(finding: "Finding", secrets: Any) -> None:
    sign = choose_signs(sys.stderr)[finding.status.value]
    first, *others = redact(finding.detail, secrets).splitlines() or [""]
    for line in (f"{sign} {first}", *(f"  {other}" for other in others)):
        _say_wrapped(line, indent="  ", after="    ")
    if finding.hint:
        _say_wrapped(f"hint: {redact(finding.hint, secrets)}", indent="    ")


def _show_error(error: SyncctlError) -> None:
    shown = error.why if isinstance(error, ConfigurationError) and error.why else str(error)
    _say_wrapped(shown)
    if error.hint and not isinstance(error, UsageError):
        _say_wrapped(f"hint: {error.hint}", indent="    ")


def _say_lines(text: str) -> None:
    for line in text.splitlines():
        out.say(f"  {line}".rstrip())


def _say_wrapped(text: str, *, indent: str = "  ", after: str | None = None) -> None:
    """Write a text in lines of at most `WIDTH` columns, breaking no word, so that names can be copied."""
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent if after is None else after,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        out.say(line)
