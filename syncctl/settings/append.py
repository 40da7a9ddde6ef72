"""One more stream at the end of `syncctl.toml`: what is there stays as it is, byte for byte."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from syncctl.errors import ConfigurationError, UsageError
from syncctl.settings.dotenv_file import ENV_FILE
from syncctl.settings.load import load_settings
from syncctl.settings.setup import write_draft
from syncctl.settings.toml_file import TOML_FILE


def append_stream(directory: Path, name: str, block: str) -> Path:
    """Append a stream's section to `syncctl.toml`, which is made where there is none; return its path.

    Nothing is written unless the settings load with it.

    Raises:
        UsageError: there is such a stream already, or the directory cannot be written.
        ConfigurationError: the settings would not load with it.
    """
    path = (directory / TOML_FILE).resolve()
    text = path.read_bytes().decode("utf-8") if path.is_file() else ""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text.strip("\ufeff") else end if text.endswith(("\n", "\r")) else end * 2
    grown = text + gap + block.replace("\n", end)
    _validate(directory, name, grown)
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        write_draft(path, grown, mode=mode).replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write to {path}", why=error.strerror or "", hint="check the directory and its permissions"
        ) from error
    return directory / TOML_FILE


def _validate(directory: Path, name: str, text: str) -> None:
    """Load the settings as they are, then as they would be."""
    known = load_settings(directory=directory).layers.merge().get("streams", {})
    if name in known:
        raise UsageError(
            f"there is a stream {name} already",
            why="a name means one stream, and its cursor in the ledger",
            hint="add --stream with another name",
        )
    with tempfile.TemporaryDirectory(prefix="syncctl-append-") as draft:
        if (directory / ENV_FILE).is_file():
            shutil.copyfile(directory / ENV_FILE, Path(draft) / ENV_FILE)
        (Path(draft) / TOML_FILE).write_text(text, encoding="utf-8", newline="")
        try:
            load_settings(directory=draft, environment=os.environ, files_from=directory.absolute())
        except ConfigurationError as error:
            if "TOML" in error.what:
                # `streams = { ... }` on one line is closed: TOML lets no section add to it.
                error.hint = "nothing was written; write streams in syncctl.toml as [streams.NAME], then run it again"
            else:
                error.hint = "nothing was written; correct what is named and run it again"
            raise
