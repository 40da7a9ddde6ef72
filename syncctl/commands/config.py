"""`syncctl config`: every setting in effect, and where it comes from."""

from typing import Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import load
from syncctl.console import out, to_line
from syncctl.errors import ConfigurationError, ExitCode


def config(
    ctx: typer.Context,
    *,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only settings whose value differs from the default.")
    ] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show every setting and where it comes from; secrets are masked.

    Order of precedence: flags, environment, .env, syncctl.toml, defaults. A setting that a stream needs but lacks is
    shown as a warning.

    Examples:
        syncctl config
        syncctl config --changed
        syncctl config --json
        syncctl --directory /etc/syncctl config
    """
    from syncctl.settings import describe_settings

    settings = load(ctx)
    entries = describe_settings(settings, changed=changed)
    missing = _list_missing(settings)
    if as_json:
        directory = str(ctx.obj.directory.absolute())
        files = list(settings.layers.files)
        out.print_json({"directory": directory, "files": files, "settings": entries, "missing": missing})
    else:
        out.table(
            ("setting", "value", "origin"),
            [(entry.key, _show(entry.value), entry.origin) for entry in entries],
            prose=("origin",),
            folded=("value",),
        )
    for line in missing:
        out.warn(line)
    if not settings.layers.files:
        out.say(f"{ctx.obj.directory.absolute()} has neither .env nor syncctl.toml; next: syncctl init")
    return ExitCode.DONE


def _list_missing(settings: Any) -> list[str]:
    try:
        settings.check()
    except ConfigurationError as error:
        return error.why.splitlines()
    return []


def _show(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    if isinstance(value, dict):
        return to_line(value) if value else None
    # As text, so that a column of mixed types shows its values as they were written.
    return value if value is None or isinstance(value, bool | str) else _show_number(value)


def _show_number(value: int | float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
