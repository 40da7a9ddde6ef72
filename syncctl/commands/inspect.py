"""`syncctl inspect`: a source's tables, the best way to read each, and the settings for it."""

import re
import shlex
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import load
from syncctl.console import out
from syncctl.core.safe_text import make_safe_line
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.sources.catalog.inspection import Inspection
    from syncctl.sources.catalog.proposal import Candidate, InspectedTable

_WIDTH = 100
_NAME_AT_MOST = 60
ONLY_FROM_BEGINNING = ("snapshot", "flag")
_FINDS_DELETES = ("snapshot", "change_tracking")
_WHOLE_LETTERS = {
    "đ": "d", "ð": "d", "ħ": "h", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "ł": "l", "ŋ": "ng", "ø": "o", "ŧ": "t",
    "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ə": "e", "ƒ": "f", "ŀ": "l", "ƀ": "b", "ɨ": "i", "ʉ": "u", "ƶ": "z",
}  # fmt: skip
_LETTERS = str.maketrans(
    {**_WHOLE_LETTERS, **{letter.upper(): plain.upper() for letter, plain in _WHOLE_LETTERS.items() if letter != "ß"}}
    | {"ẞ": "SS"}
)
"""Latin letters that Unicode does not decompose into an ASCII letter and its marks."""


def inspect(
    ctx: typer.Context,
    *,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="A table or view; by default all are listed.")
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="SOURCE", help="A source's name under [sources].")
    ] = "default",
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="COLUMN", help="A key column; may be repeated. Default: the table's own key."),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", metavar="COLUMN", help="The column to follow. Default: that of the safest mode."),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option("--stream", metavar="NAME", help="The stream's name. Default: derived from the table's."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="START", help="Where it starts: beginning, now or a cursor value."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Append the stream to syncctl.toml; needs TABLE and --start.")
    ] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """List a source's tables, or show how best to read one and write the settings for it.

    For a table it shows the key, the number of rows, the modes in which it can be read (the safest first), whether an
    index serves the cursor, and a [streams.NAME] section. Tables that refer to it by a foreign key are proposed as its
    children, commented out. The output is valid TOML, because everything except the section is a comment. On SQL Server
    only the catalog is read, and no table. --write appends the section to syncctl.toml, unless the name is taken or the
    settings would become invalid (exit code 2).

    Examples:
        syncctl inspect
        syncctl inspect dbo.orders
        syncctl inspect dbo.orders --write --start now
        syncctl inspect dbo.orders --cursor changed_at --write --start now
        syncctl inspect dbo.orders --stream orders_eu --start beginning --json
        syncctl inspect --source erp
    """
    _check_flags(table, key=key, cursor=cursor, stream=stream, start=start, write=write)
    from syncctl.sources.catalog.inspection import inspect_source

    settings = load(ctx)
    with out.progress("reading the catalog"):
        inspection = inspect_source(settings.source(source), table, key or (), cursor)
    sections = [
        propose_section(inspected, inspection.source, stream=stream, start=start) for inspected in inspection.tables
    ]
    blocks = [(section.name, section.render()) for section in sections]
    written = None
    if write:
        written = _write(ctx.obj.directory.absolute(), inspection.tables[0], *blocks[0])
    if as_json:
        documents = [
            _to_document(inspected, block, table)
            for inspected, (_, block) in zip(inspection.tables, blocks, strict=True)
        ]
        name = blocks[0][0] if written else None
        out.print_json(
            {
                "source": inspection.source,
                "tables": documents,
                "unknown": inspection.unknown,
                "written": None if written is None else {"stream": name, "file": str(written)},
            }
        )
    elif table is None:
        _show_list(inspection)
    else:
        out.show(_describe(inspection.tables[0]) + "\n\n" + blocks[0][1].rstrip())
    for line in inspection.unknown:
        out.warn(f"unknown: {line}")
    _say_next(inspection, table, blocks, written, cursor)
    return ExitCode.DONE


def _check_flags(table: str | None, *, write: bool, start: str | None, **flags: Any) -> None:
    """Check that each flag comes with the argument or flag that it needs, and the name of the stream.

    Raises:
        UsageError: an argument or flag is missing, or the name is invalid.
    """
    from syncctl.settings.field_types import check_name

    given = [name for name, value in {**flags, "start": start, "write": write}.items() if value]
    if table is None and given:
        raise UsageError(
            f"--{given[0]} needs a table",
            why="no TABLE was given",
            hint=f"for example: syncctl inspect dbo.orders --{given[0]} ...",
        )
    if write and not start:
        raise UsageError(
            "--write needs --start",
            why="it has no default, so that old rows are never sent by accident",
            hint="add --start now, or --start beginning, which posts every existing row",
        )
    if flags["stream"] is not None:
        try:
            check_name(flags["stream"])
        except ValueError as error:
            raise UsageError(f"--stream {flags['stream']!r} {error}", hint="for example: --stream orders") from None


def name_stream(table: str) -> str:
    """Derive a stream's name from a table's: `OrderLines` and `[order lines]` become `order_lines`."""
    plain = unicodedata.normalize("NFKD", table.translate(_LETTERS)).encode("ascii", "ignore").decode()
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain)
    name = re.sub(r"[^a-z0-9-]+", "_", apart.lower()).strip("_-")
    name = name if name[:1].isalpha() else f"t_{name}" if name else "stream"
    return name[:_NAME_AT_MOST]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """The section of a proposed stream."""

    name: str
    values: Mapping[str, Any]
    #: Comments on some of its values.
    remarks: Mapping[str, str]
    #: The sections of its proposed children, commented out.
    children: str

    def render(self) -> str:
        """Return the section as TOML."""
        from syncctl.settings.render import render_stream

        return render_stream(self.name, self.values, self.remarks) + self.children


def propose_section(
    table: "InspectedTable",
    source: str,
    *,
    stream: str | None = None,
    start: str | None = None,
    partner: str = "default",
    endpoint: str | None = None,
) -> Section:
    """Return the section of a stream that reads a table in the proposed way.

    Raises:
        UsageError: the mode does not support the start.
    """
    name = stream or name_stream(table.name)
    mode, remarks = str(table.settings["mode"]), dict(table.remarks)
    every = "every existing row" if table.rows is None else f"every existing row ({table.rows:,})"
    if mode in ONLY_FROM_BEGINNING:
        if start is not None and start.strip().lower() != "beginning":
            raise UsageError(
                f"mode {mode} does not support --start {start}",
                why=f"it has no cursor to start at: its first poll posts {every}",
                hint="use --start beginning, or add a rowversion column or a column that every change updates",
            )
        begin, remarks["start"] = "beginning", f"posts {every}; mode {mode} has no other start"
    else:
        begin = start or "now"
        if start is None:
            remarks["start"] = f'"beginning" posts {every}'
    if not table.key:
        remarks["key"] = "required: the columns that identify a row"
    origin = {} if source == "default" else {"source": source}
    target = {} if partner == "default" else {"partner": partner}
    values = {**origin, **table.settings, "start": begin, **target, "endpoint": endpoint or f"POST /{name}"}
    if mode in _FINDS_DELETES:
        remarks["delete_endpoint"] = 'deleted rows; "none" sends none'
        if path := propose_row_path(name, table.key):
            values["delete_endpoint"] = f"DELETE {path}"
    return Section(name=name, values=values, remarks=remarks, children=_render_children(table, name))


def propose_row_path(stream: str, key: Sequence[str]) -> str | None:
    """Return the path of one row, with every column of its key; None if a path cannot hold the key."""
    from syncctl.partner.endpoint import add_columns

    return add_columns(f"/{stream}", key) if key else None


def _render_children(table: "InspectedTable", stream: str) -> str:
    """Return the sections of tables that refer to this one, commented out."""
    from syncctl.settings.render import render_child

    taken = {column.name.casefold() for column in table.columns}
    blocks = []
    for child in table.children:
        name = name_stream(child.name)
        name = f"{name[: _NAME_AT_MOST - 5]}_rows" if name in taken else name
        taken.add(name)
        blocks.append(render_child(stream, name, child.settings))
    what = "# A table that refers to this one: uncomment its section to send its rows with those of this one.\n"
    return "".join(f"\n{what}{block}" for block in blocks)


def _write(directory: Path, table: "InspectedTable", name: str, block: str) -> Path:
    from syncctl.settings.setup_files import append_stream

    if not table.key:
        raise UsageError(
            f"nothing was written: {table.table} has no key",
            why="a stream needs the columns that identify a row, and the catalog has none",
            hint=f"name them: syncctl inspect {shlex.quote(table.table)} --key COLUMN --start ... --write",
        )
    return append_stream(directory, name, block)


def _to_document(table: "InspectedTable", block: str, wanted: str | None) -> dict[str, Any]:
    return {
        "table": table.table,
        "kind": "view" if table.is_view else "table",
        "rows": table.rows,
        "key": table.key,
        "columns": None if wanted is None else table.columns,
        "mode": table.candidates[0].mode,
        "candidates": [
            {
                "mode": candidate.mode,
                "cursor": candidate.cursor,
                "why": candidate.why,
                "indexed": candidate.indexed,
            }
            for candidate in table.candidates
        ],
        "advice": table.advice,
        "block": block,
    }


def _show_list(inspection: "Inspection") -> None:
    rows = [
        (
            f"{table.table} (view)" if table.is_view else table.table,
            table.rows,
            ", ".join(table.key) or None,
            title_of(table.candidates[0]),
        )
        for table in inspection.tables
    ]
    if rows:
        out.table(("table", "rows", "key", "safest mode"), rows, prose=("key", "safest mode"))
    else:
        out.show("no tables")


def title_of(candidate: "Candidate") -> str:
    """Return a mode with the column that it follows."""
    return candidate.mode if candidate.cursor is None else f"{candidate.mode} on {candidate.cursor}"


def _describe(table: "InspectedTable") -> str:
    """Describe a table in TOML comments, which no name of a table or a column can end."""
    return "\n".join(f"# {make_safe_line(line)}".rstrip() for line in _list_lines(table))


def _list_lines(table: "InspectedTable") -> Iterator[str]:
    count = "rows unknown" if table.rows is None else f"{table.rows:,} row{'' if table.rows == 1 else 's'}"
    yield f"{table.table}: {'view' if table.is_view else 'table'}, {count}"
    yield f"key: {', '.join(table.key)} ({table.key_origin})" if table.key else "key: none"
    columns = ", ".join(
        f"{column.name} {column.type}{' null' if column.nullable else ''}".replace("  ", " ")
        for column in table.columns
    )
    yield from _wrap(f"columns: {columns}", "  ")
    yield ""
    for at, candidate in enumerate(table.candidates):
        index = {True: ", indexed", False: ", no index", None: ""}[candidate.indexed]
        yield f"{'safest: ' if at == 0 else '   also: '}{title_of(candidate)}{index}"
        yield from _wrap(f"          {candidate.why}", "          ")
    yield from _wrap(
        "   also: flag, if a column marks undelivered rows and syncctl may run a statement that sets it",
        "          ",
    )
    if table.advice:
        # Not wrapped, so that a statement in it can be copied.
        yield from ("", *table.advice)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _say_next(
    inspection: "Inspection",
    table: str | None,
    blocks: list[tuple[str, str]],
    written: Path | None,
    cursor: str | None,
) -> None:
    """Say what was done, and name the next useful command."""
    if written is not None:
        out.say(f"appended [streams.{blocks[0][0]}] to {written}")
        out.say(f"next: syncctl doctor source {blocks[0][0]}")
    elif table is not None:
        named = inspection.tables[0]
        begin = "beginning" if named.settings["mode"] in ONLY_FROM_BEGINNING else "now"
        key = "" if named.key else "--key COLUMN "
        key += "" if cursor is None else f"--cursor {shlex.quote(cursor)} "
        out.say(f"next: syncctl inspect {shlex.quote(named.table)} {key}--start {begin} --write")
    elif inspection.tables:
        out.say(f"next: syncctl inspect {shlex.quote(inspection.tables[0].table)}")
