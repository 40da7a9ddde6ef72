"""configuration: whether all that the streams need is set, and whether its secrets are safe."""

import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from syncctl.console import format_count
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.doctor.examined import Examined
from syncctl.errors import ConfigurationError
from syncctl.settings.dotenv_file import ENV_FILE

_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def list_units(examined: Examined, directory: Path) -> Sequence[Unit]:
    """Return the checks of the settings in a directory."""
    return (
        Unit(name="configuration", look=lambda: check_settings(examined)),
        Unit(name="configuration secrets", look=lambda: check_secrets(examined, directory)),
    )


def check_settings(examined: Examined) -> Finding:
    """Tell what streams need and is not set, one line each."""
    settings = examined.settings
    names = settings.stream_names
    try:
        settings.check()
    except ConfigurationError as error:
        return failed(error.why or error.what, "correct what is named; see what is in force: syncctl config")
    if not names:
        return warned("no stream is configured", "add [streams.NAME] to syncctl.toml, or run: syncctl init --help")
    files = " and ".join(settings.layers.files) or "the environment alone"
    return passed(f"{format_count(len(names), 'stream')} from {files}: {', '.join(names)}")


def check_secrets(examined: Examined, directory: Path) -> Finding:
    """Tell which secrets others could read: in a file, or on the way to a partner."""
    findings = [*_look_at_file(directory / ENV_FILE), *_look_at_partners(examined)]
    return join_findings(findings) if findings else passed("no secret lies open")


def _look_at_file(path: Path) -> list[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    if not mode & _READABLE_BY_OTHERS:
        return []
    return [warned(f"{path.name} can be read by other users of this machine", f"run: chmod 600 {path.name}")]


def _look_at_partners(examined: Examined) -> list[Finding]:
    findings = []
    for name in examined.settings.partners:
        try:
            partner = examined.settings.partner(name)
            url = urlsplit(partner.url)
        except (ConfigurationError, ValueError):
            continue
        if (partner.auth.values or partner.headers) and url.scheme == "http" and url.hostname not in _LOOPBACK:
            setting = "PARTNER_URL" if name == "default" else f"partners.{name}.url"
            findings.append(
                warned(
                    f"the credentials of partner {name} travel unencrypted to {url.hostname}",
                    f"set {setting} to https://…",
                )
            )
        token_url = urlsplit(partner.auth.values.get("token_url", ""))
        if token_url.scheme == "http" and token_url.hostname not in _LOOPBACK:
            findings.append(
                warned(
                    f"the client secret of partner {name} travels unencrypted to {token_url.hostname}",
                    f"set partners.{name}.auth.token_url to https://…",
                )
            )
    return findings
