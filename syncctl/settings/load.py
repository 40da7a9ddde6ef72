"""Read the settings of a directory: flag > environment > .env > syncctl.toml > default."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from syncctl.core.redaction import find_secrets, spell_secret
from syncctl.errors import UsageError
from syncctl.settings.credentials import is_credential
from syncctl.settings.dotenv_file import ENV_FILE, read_dotenv
from syncctl.settings.invalid import read_errors
from syncctl.settings.layers import Layer, Layers, read_flags
from syncctl.settings.model import Settings
from syncctl.settings.names import Names
from syncctl.settings.problems import make_error
from syncctl.settings.rules import check_rules
from syncctl.settings.toml_file import TOML_FILE, TomlLayer, read_toml
from syncctl.settings.variables import VariableReader


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
        directory: Where `.env` and `syncctl.toml` are; the working directory by default. Both may be missing.
        flags: Values of the command line by key, as in `{"worker.concurrency": 8}`; None is a flag not given.
        flag_names: What an error calls a flag, by key, as in `{"redis_url": "--redis-url"}`.
        environment: What to read in place of `os.environ`, which is never changed.
        files_from: Where the relative paths of files begin; the directory by default.

    Raises:
        ConfigurationError: with one line for each wrong value: its key, where it stands, and the fix.
        UsageError: when the directory is not there.
    """
    home = Path(directory) if directory is not None else Path.cwd()
    if not home.is_dir():
        raise UsageError(f"there is no directory {home}", hint="name the directory that holds .env and syncctl.toml")
    variables = os.environ if environment is None else environment
    names = Names(environment=dict(variables), dotenv={}, directory=files_from or home)
    layers = _read_layers(home, names, read_flags(flags or {}, flag_names or {}))
    return build_settings(layers)


def build_settings(layers: Layers) -> Settings:
    """Check the values of all layers together and return the settings.

    Raises:
        ConfigurationError: with one line for each wrong value.
    """
    problems = list(layers.problems)
    settings = None
    try:
        settings = Settings(layers=layers)
    except ValidationError as error:
        problems += read_errors(error, Settings, layers)
    problems += check_rules(layers.merge(), layers)
    if problems or settings is None:
        raise make_error(problems, secrets=layers.hidden | _find_hidden(layers.merge()))
    return settings


def _read_layers(home: Path, names: Names, flags: Layer) -> Layers:
    tree, toml_lines = read_toml(home / TOML_FILE)
    dotenv, dotenv_lines, problems = read_dotenv(home / ENV_FILE)
    layers = Layers(problems=problems, directory=names.directory.absolute())
    names = replace(names, dotenv=dotenv)

    from_environment = VariableReader(
        model=Settings, names=names, layers=layers, locate=lambda _: "environment", fill=False
    ).read(names.environment)
    from_dotenv = VariableReader(
        model=Settings,
        names=names,
        layers=layers,
        locate=lambda name: f"{ENV_FILE} line {dotenv_lines[name]}",
        fill=True,
    ).read(dotenv)
    from_toml = TomlLayer(toml_lines, names, layers).read(tree)

    layers.layers = (flags, from_environment, from_dotenv, from_toml, _make_defaults())
    layers.files = tuple(name for name in (ENV_FILE, TOML_FILE) if (home / name).is_file())
    layers.hidden |= names.used.keys()
    layers.named |= names.used
    for layer in layers.layers:
        layers.hidden |= _find_hidden(layer.tree)
    return layers


def _make_defaults() -> Layer:
    """Return the layer below all: the source and the partner called `default` are always there."""
    return Layer(tree={"sources": {"default": {}}, "partners": {"default": {}}})


def _find_hidden(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> set[str]:
    """Return what no error may show of a tree: credentials, and the secrets of URLs wherever they stand."""
    hidden: set[str] = set()
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict):
            hidden |= _find_hidden(value, path)
        elif isinstance(value, str):
            hidden |= find_secrets(value)
            hidden |= spell_secret(value) if is_credential(path) or "headers" in path[2:3] else set()
    return hidden
