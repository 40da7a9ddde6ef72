"""configuration: whether everything that the streams need is set, and whether the secrets are safe."""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from syncctl.console import format_count
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.errors import ConfigurationError
from syncctl.settings.dotenv_file import ENV_FILE

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def list_units(services: "Services", directory: Path) -> Sequence[Unit]:
    """Return the checks of the settings in a directory."""
    return (
        Unit(name="configuration", look=lambda: check_settings(services)),
        Unit(name="configuration secrets", look=lambda: check_secrets(services, directory)),
    )


def check_settings(services: "Services") -> Finding:
    """Report the settings that streams need and that are missing, one line each."""
    settings = services.settings
    names = settings.stream_names
    try:
        settings.check()
    except ConfigurationError as error:
        return failed(error.why or error.what, "correct these settings; then see all of them with: syncctl config")
    if not names:
        return warned("no stream is configured", "add [streams.NAME] to syncctl.toml, or run: syncctl init --help")
    files = " and ".join(settings.layers.files) or "the environment alone"
    return passed(f"{format_count(len(names), 'stream')} from {files}: {', '.join(names)}")


def check_secrets(services: "Services", directory: Path) -> Finding:
    """Report secrets that others could read: in a file, or on the way to a partner."""
    findings = [*_look_at_file(directory / ENV_FILE), *_look_at_partners(services)]
    return join_findings(findings) if findings else passed("no secret is exposed")


def _look_at_file(path: Path) -> list[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    if not mode & _READABLE_BY_OTHERS:
        return []
    return [warned(f"other users of this machine can read {path.name}", f"run: chmod 600 {path.name}")]


def _look_at_partners(services: "Services") -> list[Finding]:
    findings = []
    for name in services.settings.partners:
        try:
            partner = services.settings.partner(name)
            url = urlsplit(partner.url)
        except (ConfigurationError, ValueError):
            continue
        if (partner.auth.values or partner.headers) and url.scheme == "http" and url.hostname not in _LOOPBACK:
            setting = "PARTNER_URL" if name == "default" else f"partners.{name}.url"
            findings.append(
                warned(
                    f"the credentials of partner {name} are sent unencrypted to {url.hostname}",
                    f"set {setting} to https://…",
                )
            )
        token_url = urlsplit(partner.auth.values.get("token_url", ""))
        if token_url.scheme == "http" and token_url.hostname not in _LOOPBACK:
            findings.append(
                warned(
                    f"the client secret of partner {name} is sent unencrypted to {token_url.hostname}",
                    f"set partners.{name}.auth.token_url to https://…",
                )
            )
    return findings
