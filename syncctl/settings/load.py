"""Read the settings of a directory: flag > environment > .env > syncctl.toml > default."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from syncctl.core.files import stamp_file
from syncctl.errors import UsageError
from syncctl.settings.dotenv_file import ENV_FILE, read_dotenv
from syncctl.settings.layers import Layer, Layers, is_too_deep, read_flags
from syncctl.settings.model import Settings
from syncctl.settings.problems import make_depth_error, make_error, read_errors
from syncctl.settings.toml_file import TOML_FILE, TomlReader, read_toml
from syncctl.settings.variables import VariableReader, Variables


def load_settings(
    *,
    directory: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    flag_names: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    files_from: Path | None = None,
) -> Settings:
    """Read and check the settings of a directory.

    Args:
        directory: The directory of `.env` and `syncctl.toml`; by default the one that `SYNCCTL_DIRECTORY` names, or the
            working directory. Both files may be missing.
        flags: Values of the command line by key, as in `{"worker.concurrency": 8}`; None is a flag that was not given.
        flag_names: The name of a flag in errors, by key, as in `{"redis_url": "--redis-url"}`.
        environment: The variables to read instead of `os.environ`, which is never changed.
        files_from: The directory that relative paths of files start from; by default `directory`.

    Raises:
        ConfigurationError: with one line for each wrong value: its key, where it stands, and the fix.
        UsageError: when the directory does not exist.
    """
    home = Path(os.environ.get("SYNCCTL_DIRECTORY") or Path.cwd()) if directory is None else Path(directory)
    if not home.is_dir():
        raise UsageError(f"there is no directory {home}", hint="name the directory that holds .env and syncctl.toml")
    variables = Variables(
        environment=dict(os.environ if environment is None else environment), dotenv={}, directory=files_from or home
    )
    try:
        return _load(home, variables, read_flags(flags or {}, flag_names or {}))
    except RecursionError:
        raise make_depth_error() from None


def _load(home: Path, variables: Variables, flags: Layer) -> Settings:
    layers = _read_layers(home, variables, flags)
    if any(is_too_deep(layer.tree) for layer in layers.layers):
        raise make_depth_error()
    problems, settings = list(layers.problems), None
    try:
        settings = Settings.model_validate(layers.merged, context=layers)
    except ValidationError as error:
        problems += read_errors(error, Settings, layers)
    if problems or settings is None:
        raise make_error(problems, secrets=layers.find_hidden())
    return settings


def _read_layers(home: Path, variables: Variables, flags: Layer) -> Layers:
    # Stamp the files before they are read, so that one that is written in between is seen as changed.
    stamps = {path: stamp_file(path) for path in (home.absolute() / ENV_FILE, home.absolute() / TOML_FILE)}
    tree, toml_lines = read_toml(home / TOML_FILE)
    dotenv, dotenv_lines, problems = read_dotenv(home / ENV_FILE)
    variables = replace(variables, dotenv=dotenv)
    layers = Layers(
        problems=problems,
        files=tuple(name for name in (ENV_FILE, TOML_FILE) if (home / name).is_file()),
        stamps=stamps,
        named=variables.used,
        named_files=variables.files,
        directory=variables.directory.absolute(),
    )
    from_environment = VariableReader(
        variables=variables, layers=layers, locate=lambda _: "environment", fill=False
    ).read(variables.environment)
    from_dotenv = VariableReader(
        variables=variables,
        layers=layers,
        locate=lambda name: f"{ENV_FILE} line {dotenv_lines[name]}",
        fill=True,
        above=from_environment,
    ).read(dotenv)
    from_toml = TomlReader(toml_lines, variables, layers).read(tree)
    # The source and the partner called `default` always exist.
    defaults = Layer(tree={"sources": {"default": {}}, "partners": {"default": {}}})
    layers.layers = (flags, from_environment, from_dotenv, from_toml, defaults)
    return layers
