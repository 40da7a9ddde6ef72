"""The console: the answer of a command on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from syncctl.console.csv_lines import to_csv_header, to_csv_lines
from syncctl.console.json_documents import to_json
from syncctl.console.lines import draw_line, measure, wrap
from syncctl.console.tables import Table, to_lines, to_plain
from syncctl.console.terminal import can_redraw, decide_colour, is_terminal, measure_terminal, paint
from syncctl.core.safe_text import make_safe, make_safe_line
from syncctl.errors import SyncctlError, TroubleFound

if TYPE_CHECKING:
    from syncctl.console.progress import ProgressLine

WRITTEN_AT_ONCE = 500
_BESIDE_LABEL = len("warning: ")


class Console:
    """Write answers to stdout and everything else to stderr.

    The streams are looked up at each call, so that a test or a redirection can replace them. If the reader of stdout
    has gone away, the rest of the output is dropped silently; the exit code still says what the command did. Output
    that cannot be written for another reason, such as a full disk, is an error.
    """

    def __init__(self) -> None:
        self.quiet = False
        #: Whether a program reads the output, as with `--json`.
        self.is_for_machines = False
        self.reader_gone = False
        self._line: ProgressLine | None = None

    def show(self, renderable: Any) -> None:
        """Write text, a `Table` or anything that rich can draw to stdout."""
        if isinstance(renderable, str):
            self._write_out(make_safe(renderable) + "\n")
        elif not isinstance(renderable, Table):
            self._draw(renderable)
        elif self.is_watched():
            self.show_lines(to_lines(renderable, self.width))
        else:
            self._write_out(to_plain(renderable) + "\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
        prose: Sequence[str] = (),
        folded: Sequence[str] = (),
        whole: Sequence[str] = (),
        **styles: str,
    ) -> None:
        """Write a `Table` to stdout; `styles` maps a column to the colour of its cells, as in `failed="red"`."""
        painted = tuple(styles.items())
        self.show(
            Table(
                columns=columns, rows=list(rows), title=title, styles=painted, prose=prose, folded=folded, whole=whole
            )
        )

    def print_json(self, document: Any) -> None:
        """Write exactly one JSON document to stdout."""
        self._write_out(to_json(document, encoding=getattr(sys.stdout, "encoding", None) or "utf-8") + "\n")

    def print_json_lines(self, documents: Iterable[Any]) -> None:
        """Write JSON documents to stdout in one write, each on its own line."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = "".join(f"{to_json(document, encoding=encoding, indent=None)}\n" for document in documents)
        if text:
            self._write_out(text)

    def show_lines(self, lines: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Write lines made of (text, style) parts to stdout; on a terminal each is cut to its width, never wrapped."""
        width = self.width if is_terminal(sys.stdout) else None
        colour = decide_colour(sys.stdout)
        self._write_out("".join(f"{draw_line(line, width=width, colour=colour)}\n" for line in lines))

    def show_sentence(self, text: str, *, indent: int = 0, painted: int = 0, style: str = "") -> None:
        """Write one line to stdout; on a narrower terminal it continues on further lines, and no word is broken.

        Args:
            indent: How far the further lines are indented; this much of the text's beginning is never wrapped.
            painted: How many characters at the beginning have the colour of `style`.
        """
        label, rest = make_safe_line(text)[:indent], make_safe_line(text)[indent:]
        lines = _wrap_on_terminal(rest, sys.stdout, indent=indent)
        mark = paint(label[:painted], style, colour=painted > 0 and decide_colour(sys.stdout))
        shown = mark + label[painted:] + f"\n{' ' * indent}".join(lines)
        self._write_out(shown.rstrip(" ") + "\n")

    @property
    def width(self) -> int:
        """The columns of the terminal behind stdout."""
        return measure_terminal(sys.stdout)[0]

    def print_json_list(
        self, name: str, documents: Iterable[Any], finish: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        """Write one JSON document with a list to stdout, piece by piece, so that memory does not grow with the list.

        Args:
            finish: Returns the fields that follow the list; called when the list has ended.
        """
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._write_out(f'{{\n  "{name}": [')
        remaining = iter(documents)
        before, end = "\n    ", ""
        while chunk := list(islice(remaining, WRITTEN_AT_ONCE)):
            lines = [to_json(document, encoding=encoding, indent=None) for document in chunk]
            self._write_out(before + ",\n    ".join(lines))
            before, end = ",\n    ", "\n  "
            if self.reader_gone:
                return
        rest = "".join(f',\n  "{key}": {to_json(value, encoding=encoding)}' for key, value in finish().items())
        self._write_out(f"{end}]{rest}\n}}\n")

    def print_csv(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write one CSV document with a header to stdout, piece by piece, so that memory does not grow with it."""
        self._write_out(to_csv_header(columns))
        remaining = iter(rows)
        while chunk := list(islice(remaining, WRITTEN_AT_ONCE)):
            self._write_out(to_csv_lines(chunk))
            if self.reader_gone:
                return

    def is_watched(self) -> bool:
        """Tell whether stdout is a terminal, so that a person gets fewer columns; a pipe gets all."""
        return is_terminal(sys.stdout)

    def can_redraw(self) -> bool:
        """Tell whether stdout is a terminal on which a picture can be redrawn in place."""
        return can_redraw(sys.stdout)

    def _draw(self, renderable: Any) -> None:
        from rich.console import Console as RichConsole

        drawn = RichConsole(
            file=sys.stdout,
            force_terminal=decide_colour(sys.stdout),
            no_color=not decide_colour(sys.stdout),
            width=None if is_terminal(sys.stdout) else 1000,
            highlight=False,
            markup=False,
            soft_wrap=not is_terminal(sys.stdout),
        )
        with drawn.capture() as captured:
            drawn.print(renderable)
        lines = (line.rstrip() for line in captured.get().splitlines())
        self._write_out("\n".join(lines).strip("\n") + "\n")

    def _write_out(self, text: str) -> None:
        if self.reader_gone:
            return
        try:
            with self._line.aside() if self._line and is_terminal(sys.stdout) else nullcontext():
                sys.stdout.write(_fit(text, sys.stdout))
                sys.stdout.flush()
        except OSError as error:
            self.reader_gone = True
            # Otherwise Python would fail loudly on the rest of the buffer when it flushes at exit.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                raise TroubleFound(
                    "cannot write the output",
                    why=error.strerror or str(error),
                    hint="make room where the output is written; what the command had done before that stays done",
                ) from error

    def say(self, text: str = "") -> None:
        """Write a line for the user to stderr; `--quiet` suppresses it.

        On a terminal no word of a sentence is broken; the terminal itself wraps commands, so that they can be copied.
        """
        if self.quiet:
            return
        is_sentence = not text.startswith((" ", "next:")) and "\n" not in text
        lines = _wrap_on_terminal(text, sys.stderr, indent=0) if is_sentence else [text]
        self._write_err(make_safe("\n".join(lines)) + "\n")

    def warn(self, text: str) -> None:
        """Write `warning: ...` to stderr, even with `--quiet`."""
        self._write_err(self._draw_labelled("warning:", "yellow", text))

    def error(self, error: SyncctlError) -> None:
        """Write what went wrong, why, and what to do next as three lines to stderr, even with `--quiet`.

        A cause of several lines, such as several wrong settings, keeps its lines.
        """
        text = self._draw_labelled("error:", "red", _one_line(error.what))
        if error.why:
            text += self._draw_labelled("  cause:", "dim", error.why)
        if error.hint:
            text += self._draw_labelled("   hint:", "cyan", _one_line(error.hint))
        self._write_err(text)

    def error_json(self, error: SyncctlError, *, exit_code: int) -> None:
        """Write an error as one line of JSON to stderr; stdout is for documents and stays empty."""
        document = {"what": error.what, "why": error.why, "hint": error.hint, "exit_code": exit_code}
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        self._write_err(to_json({"error": document}, encoding=encoding, indent=None) + "\n")

    def is_interactive(self) -> bool:
        """Tell whether a person can answer a question: stdin and stderr are both terminals."""
        return is_terminal(sys.stdin) and is_terminal(sys.stderr)

    def ask(self, question: str) -> str:
        """Ask on stderr and return the line that was typed.

        Raises:
            EOFError: the input ended.
        """
        self._write_err(make_safe(question))
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def ask_secret(self, question: str) -> str:
        """Ask on the terminal and return what was typed there, which is not shown.

        Raises:
            EOFError: the input ended.
        """
        from getpass import getpass

        return getpass(make_safe(question), stream=sys.stderr)

    def confirm(self, question: str) -> bool:
        """Ask on stderr and return true only for `y` or `yes`; without a terminal return false."""
        if not self.is_interactive():
            return False
        self._write_err(f"{make_safe(question)} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, label: str, *, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Show progress on stderr once a second has passed; yield a function that takes the count done so far.

        Off a terminal, a line is written every half minute. Nothing is shown with `--quiet` or `--json`, or within
        other progress.
        """
        if self.quiet or self.is_for_machines or self._line is not None:
            yield lambda _done: None
            return
        from syncctl import logs
        from syncctl.console.progress import ProgressLine

        line = self._line = ProgressLine(
            label, total=total, unit=unit, write=self._write_raw, redraws=can_redraw(sys.stderr)
        )
        logs.aside = line.aside
        line.start()
        try:
            yield line.show
        finally:
            line.end()
            self._line, logs.aside = None, nullcontext

    def _paint(self, text: str, style: str) -> str:
        return paint(text, style, colour=decide_colour(sys.stderr))

    def _draw_labelled(self, label: str, style: str, text: str) -> str:
        """Return a label and the text beside it, in lines; on a terminal no word is broken."""
        lines = [_one_line(line) for line in text.splitlines() if line.strip()] or [""]
        shown = [part for line in lines for part in _wrap_on_terminal(line, sys.stderr, indent=_BESIDE_LABEL)]
        blanks, word = label[: -len(label.lstrip())], label.lstrip()
        return f"{blanks}{self._paint(word, style)} " + f"\n{' ' * _BESIDE_LABEL}".join(shown) + "\n"

    def _write_err(self, text: str) -> None:
        with self._line.aside() if self._line else nullcontext():
            self._write_raw(text)

    def _write_raw(self, text: str) -> None:
        try:
            sys.stderr.write(_fit(text, sys.stderr))
            sys.stderr.flush()
        except (OSError, ValueError):
            # Its reader has gone away, or its disk is full: there is nowhere to report it.
            return


def _wrap_on_terminal(text: str, stream: TextIO, *, indent: int) -> list[str]:
    """Return the text in lines that fit beside an indent; off a terminal, or without room, as one line."""
    room = measure_terminal(stream)[0] - indent if is_terminal(stream) else 0
    return wrap(text, room, cuts=False) if 0 < room < measure(text) else [text]


def _one_line(text: str) -> str:
    return " ".join(make_safe(text).split())


def _fit(text: str, stream: TextIO) -> str:
    """Return the text with characters that the stream's encoding lacks replaced by escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)
