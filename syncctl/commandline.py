"""Extensions to Typer: lazy commands, help that begins with examples, global options in any position."""

import inspect
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from syncctl.console import out
from syncctl.core.spelling import find_near
from syncctl.errors import UsageError

if TYPE_CHECKING:
    from syncctl.settings import Settings

GLOBAL_OPTIONS = ("directory", "log_format", "verbose", "debug", "quiet")
DIRECTORY_VARIABLE = "SYNCCTL_DIRECTORY"

_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_NEGATIVE = re.compile(r"-(?=\.?\d)")
_BRACES = re.compile(r"\{(.*)\}(\.\.\.)?")
_PYTHON_TYPE = re.compile(r" <(?:list\[)?(?:str|int|float)\]?>$")
_MINUS = "\N{MINUS SIGN}"
_EXAMPLES = re.compile(r"^Examples:\n((?:[ \t]+\S.*\n?|\n(?=[ \t]))+)", re.MULTILINE)


@dataclass(kw_only=True, slots=True)
class Invocation:
    """The global options of this call, and the settings once they have been read.

    `directory` holds `.env` and `syncctl.toml`; it is the working directory, after `--directory` was applied.
    """

    directory: Path = field(default_factory=Path)
    debug: bool = False
    quiet: bool = False
    verbose: bool = False
    #: None: by the setting `log.format`, or as a command writes its own warnings.
    log_format: str | None = None
    #: The directory in which the call began, if `SYNCCTL_DIRECTORY` has led to another one.
    _began_in: Path | None = None
    _settings: "Settings | None" = None

    def settings(self) -> "Settings":
        """Read the settings the first time, warn about deprecated ones, and return them.

        Raises:
            ConfigurationError: a setting is missing, unknown or wrong.
        """
        if self._settings is None:
            from syncctl.settings import load_settings

            flags = {"log.format": self.log_format, "log.attempts": True if self.verbose or self.debug else None}
            names = {"log.format": "--log-format", "log.attempts": "--verbose"}
            self._settings = load_settings(directory=self.directory, flags=flags, flag_names=names)
            for warning in self._settings.layers.list_deprecated():
                out.warn(warning)
        return self._settings

    def configure_logging(self) -> None:
        """Show only warnings, because a command reports its own progress; with `--debug` show everything.

        Raises:
            UsageError: there is no such format.
        """
        from syncctl.logs import configure_logging, read_format

        chosen = None if self.log_format is None else read_format(self.log_format)
        if chosen is None and self.log_format is not None:
            raise UsageError(
                f"--log-format {self.log_format!r} is not a format",
                why="log lines are text or JSON",
                hint="use --log-format auto, text or json",
            )
        level = "debug" if self.debug else "info" if self.verbose else "warning"
        configure_logging(
            level=level,
            format=chosen or ("text" if self.debug else "short"),
            attempts=self.verbose or self.debug,
            secrets=self.secrets(),
        )

    def secrets(self) -> frozenset[str]:
        """Return the secrets that must not be shown; empty before the settings have been read."""
        return self._settings.secrets() if self._settings is not None else frozenset()

    def adopt(self, options: Mapping[str, Any], *, by_variable: bool = False) -> None:
        """Apply global options given on the command line.

        Args:
            by_variable: The directory is that of `SYNCCTL_DIRECTORY`, which a later `--directory` overrides.
        """
        self.debug |= bool(options.get("debug"))
        self.quiet |= bool(options.get("quiet"))
        self.verbose |= bool(options.get("verbose"))
        self.log_format = options.get("log_format") or self.log_format
        out.quiet = self.quiet
        if "directory" in options:
            self._enter(options["directory"], by_variable=by_variable)
        self.configure_logging()

    def _enter(self, directory: Path, *, by_variable: bool) -> None:
        """Change to a directory, as `git -C` does, so that Celery and relative paths in the settings use it too."""
        before = self._began_in or Path.cwd()
        try:
            os.chdir(before / directory)
        except OSError as error:
            raise UsageError(
                f"cannot enter the directory {directory}",
                why=error.strerror or str(error),
                hint=f"check {DIRECTORY_VARIABLE if by_variable else '--directory'}",
            ) from error
        self._began_in = before if by_variable else None
        if DIRECTORY_VARIABLE in os.environ:
            # Celery, and every process that this one starts, uses it too.
            os.environ[DIRECTORY_VARIABLE] = str(Path.cwd())


class Command(TyperCommand):
    """A command whose help begins with examples and that also takes the global options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters and the global options that it does not redefine."""
        own = super().get_params(ctx)
        taken = {opt for param in own for opt in (param.name, *param.opts)}
        return own + [param for param in _global_params(ctx) if not taken & {param.name, *param.opts}]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; negative numbers are values, and global options go to the invocation."""
        rest = super().parse_args(ctx, _protect_negatives(args))
        ctx.params = {name: _restore_negatives(value) for name, value in ctx.params.items()}
        _adopt_globals(ctx, own={param.name for param in self.params})
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line, required arguments without braces."""
        return [_BRACES.sub(r"\1\2", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, then the usage, the text and the options."""
        _format_help(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the command's own options, then the global ones."""
        own = {id(param) for param in TyperCommand.get_params(self, ctx)}
        records = {"Arguments": [], "Options": [], "Global options": []}  # type: dict[str, list[Any]]
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if id(param) not in own:
                records["Global options"].append(record)
            elif param.param_type_name == "argument":
                # Typer adds the type as Python writes it: "STREAM <list[str]>".
                records["Arguments"].append((_PYTHON_TYPE.sub("", record[0]), *record[1:]))
            else:
                records["Options"].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class SubGroup(TyperGroup):
    """A command with subcommands, such as `syncctl local up`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, then the usage, the text and the commands."""
        _format_help(self, ctx, formatter)


class LazyGroup(TyperGroup):
    """The commands of syncctl; a command's module is imported only when the command is called.

    `groups` maps the title of each group to its commands with their one-line help; `modules` names the module of
    commands that share one. The command `x` is the function `x` of its module, or the module's Typer app `app`.
    """

    groups: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    modules: ClassVar[Mapping[str, str]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the global options; a shell may be named after those for completion."""
        _complete_for_named_shell(ctx, args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (Typer's signature)
        """Return the commands in the order of their groups."""
        return [name for commands in self.groups.values() for name in commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a command, None if no command has that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        if cmd_name not in self.commands:
            module = import_module(f"syncctl.commands.{self.modules.get(cmd_name, cmd_name)}")
            self.commands[cmd_name] = build_command(cmd_name, module)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with.

        Raises:
            UsageError: there is no such command; the error suggests the one that was probably meant.
        """
        if not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            near = find_near(args[0], self.list_commands(ctx))
            raise UsageError(
                f"no such command: {args[0]}",
                why=f"did you mean: syncctl {near}" if near else "syncctl has no command of that name",
                hint="run: syncctl --help",
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, then the usage, the commands and the options."""
        _format_help(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one line per command, group by group, without importing the commands."""
        width = max(map(len, self.list_commands(ctx)))
        for title, commands in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands, with their help, or the options that begin like a word; import no command."""
        from syncctl.completion import complete_names

        if incomplete.startswith("-"):
            return TyperCommand.shell_complete(self, ctx, incomplete)
        return complete_names(
            {name: text for commands in self.groups.values() for name, text in commands.items()}, incomplete
        )


def build_command(name: str, module: Any) -> Any:
    """Build the command of a module: its function of the command's name, or its Typer app.

    An app with a single command is still a group.
    """
    from syncctl.completion import attach_completion

    function = getattr(module, name.replace("-", "_"), None)
    if callable(function) and not isinstance(function, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        settings = getattr(module, "CONTEXT_SETTINGS", {})
        app.command(name, cls=Command, context_settings=settings)(function)
        command = typer.main.get_command(app)
        attach_completion(command.params, _find_directory)
        return command
    for info in module.app.registered_commands:
        info.cls = Command
    module.app.info.cls = SubGroup
    group = typer.main.get_group(module.app)
    group.name = name
    return group


def _complete_for_named_shell(ctx: Any, args: list[str]) -> None:
    """Install or show the completion for the shell that the command line names, otherwise for this one, and exit.

    Typer would take the name for a command.

    Raises:
        UsageError: there is no completion for that shell, or it cannot be installed.
    """
    from typer.completion import install_callback, show_callback

    option, equals, shell = args[0].partition("=") if args else ("", "", "")
    callback = {"--install-completion": install_callback, "--show-completion": show_callback}.get(option)
    shell = shell if equals or len(args) < 2 else args[1]
    if callback is None:
        return
    if shell and shell not in _SHELLS:
        raise UsageError(
            f"there is no completion for {shell}",
            why=f"there is one for {', '.join(_SHELLS)}",
            hint=f"for example: syncctl {option} zsh",
        )
    try:
        callback(ctx, ctx.command.params[0], shell or True)
    except OSError as error:
        raise UsageError(
            "cannot install the completion",
            why=f"{error.filename}: {error.strerror}",
            hint=f"write it to a file of your own: syncctl --show-completion {shell or 'bash'}",
        ) from error


def _global_params(ctx: Any) -> list[TyperOption]:
    root = ctx.find_root()
    if root is ctx:
        return []
    return [param for param in root.command.params if param.name in GLOBAL_OPTIONS]


def _find_directory(ctx: Any) -> Path:
    """Return the directory of a command line that is being completed; one after the command was entered before."""
    return Path() if ctx.meta.get("directory") else Path(ctx.find_root().params.get("directory") or ".")


def _adopt_globals(ctx: Any, *, own: set[str]) -> None:
    """Move global options from the command's parameters to the invocation."""
    given = {}
    for name in set(GLOBAL_OPTIONS) - own:
        value = ctx.params.pop(name, None)
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            given[name] = value
    ctx.meta["directory"] = given.get("directory")
    if given and isinstance(ctx.obj, Invocation):
        ctx.obj.adopt(given)


def _protect_negatives(args: list[str]) -> list[str]:
    """Replace the hyphen of negative numbers by a minus sign, which the option parser does not take for a flag."""
    end = args.index("--") if "--" in args else len(args)
    return [_NEGATIVE.sub(_MINUS, arg, count=1) if _NEGATIVE.match(arg) else arg for arg in args[:end]] + args[end:]


def _restore_negatives(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_restore_negatives(inner) for inner in value)
    if isinstance(value, str) and value.startswith(_MINUS):
        return "-" + value[1:]
    return value


def _format_help(command: Any, ctx: Any, formatter: Any) -> None:
    text = inspect.cleandoc(command.help or "")
    examples = _EXAMPLES.search(text)
    if examples:
        formatter.write("Examples:\n")
        for line in textwrap.dedent(examples[1]).strip().splitlines():
            formatter.write(f"  {line}\n" if line else "\n")
        formatter.write("\n")
        text = text[: examples.start()] + text[examples.end() :]
    command.format_usage(ctx, formatter)
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(text.strip())
    command.format_options(ctx, formatter)
