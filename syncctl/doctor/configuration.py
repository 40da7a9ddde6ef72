"""configuration: whether everything that the streams need is set, and whether the secrets are safe."""

import math
import shlex
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from syncctl.archive.archive_files import CREATE, find_obstacle
from syncctl.console import format_count
from syncctl.core.durations import format_age, format_duration
from syncctl.core.retry import find_last_retry
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, warned
from syncctl.errors import ConfigurationError
from syncctl.settings.dotenv_file import ENV_FILE
from syncctl.settings.example_secrets import list_example_secrets

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services
    from syncctl.settings import Settings

_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
_KEY_FILES = ("tlscertificatekeyfile", "ssl_keyfile")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def list_units(services: "Services", directory: Path) -> Sequence[Unit]:
    """Return the checks of the settings in a directory."""
    return (
        Unit(name="configuration", look=lambda: check_settings(services)),
        Unit(name="configuration secrets", look=lambda: check_secrets(services, directory)),
        Unit(name="configuration examples", look=lambda: check_examples(services)),
        Unit(name="configuration retention", look=lambda: check_retention(services)),
        Unit(name="configuration archive", look=lambda: check_archive(services)),
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
    files = _list_secret_files(services.settings, directory)
    findings = [*(finding for name, path in files for finding in _look_at_file(name, path))]
    findings += _look_at_partners(services)
    if findings:
        return join_findings(findings)
    names = ", ".join(dict.fromkeys(name for name, path in files if path.exists()))
    read = f"other users cannot read {names}" if names else "no file holds a secret"
    return passed(f"{read}; no credential goes unencrypted to another machine")


def check_examples(services: "Services") -> Finding:
    """Report secrets that still have a value from an example, which is no secret."""
    findings = [
        warned(
            f"{problem.key} has the value of an example, which everyone knows"
            f"{f' ({problem.origin})' if problem.origin else ''}",
            f"set {problem.text} to the real one",
        )
        for problem in list_example_secrets(services.settings)
    ]
    return join_findings(findings or [passed("no secret has the value of an example")])


def check_retention(services: "Services") -> Finding:
    """Warn if finished records are removed while other records of the same time may still be retried."""
    settings = services.settings
    spans = {name: find_last_retry(settings.stream(name).retry) for name in settings.stream_names}
    if not spans:
        return passed("no stream is configured")
    name, longest = max(spans.items(), key=lambda span: span[1])
    days = f"{math.ceil(longest / 86400)}d"
    findings = [
        warned(
            f"{state} records are removed after {format_duration(kept)}, but stream {name} retries for up to "
            f"{format_age(longest)}: when the last records of an outage fail, others are already removed",
            f'write {state} = "{days}" under [retention] in syncctl.toml, then restart the workers',
        )
        for state, kept in (("delivered", settings.retention.delivered), ("failed", settings.retention.failed))
        if kept < longest
    ]
    return join_findings(findings or [passed(f"longer than retries can go on, at most {format_age(longest)}")])


def check_archive(services: "Services") -> Finding:
    """Check whether cleanup, on this machine, could archive records where the settings say."""
    directory = services.settings.archive_directory
    if directory is None:
        return passed("retention.archive is not set: records are deleted without being archived")
    if (obstacle := find_obstacle(directory)) is None:
        return passed(f"records are archived in {directory}")
    return warned(
        f"cleanup cannot archive in {directory} on this machine, and would delete nothing: {obstacle}",
        CREATE.format(shlex.quote(str(directory))),
    )


def _list_secret_files(settings: "Settings", directory: Path) -> list[tuple[str, Path]]:
    """Return the files that hold secrets, each with the name that the operator knows it by."""
    layers, secrets = settings.layers, settings.secrets()
    files = [(ENV_FILE, directory / ENV_FILE)] if _holds_any(directory / ENV_FILE, secrets) else []
    for text, name in layers.named.items():
        if name in layers.named_files and any(secret in text for secret in secrets):
            files.append((f"the file of {name}_FILE", layers.named_files[name]))
    for name, partner in settings.partners.items():
        # The file of a certificate holds the key too, unless the key has its own file.
        key = "client_key" if partner.client_key else "client_cert"
        if path := getattr(partner, key):
            files.append((f"partners.{name}.{key}", layers.directory / path))
    for name, url in (("MONGO_URL", settings.mongo_url), ("REDIS_URL", settings.redis_url)):
        files += [
            (f"{key} of {name}", layers.directory / value)
            for key, value in parse_qsl(urlsplit(url).query)
            if key.lower() in _KEY_FILES
        ]
    return files


def _holds_any(path: Path, secrets: Collection[str]) -> bool:
    """Tell whether a file holds a secret; it may instead only name the files of the secrets."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(secret in text for secret in secrets)


def _look_at_file(name: str, path: Path) -> list[Finding]:
    try:
        readable = path.stat().st_mode & _READABLE_BY_OTHERS
    except OSError:
        return []
    if not readable:
        return []
    return [warned(f"other users of this machine can read {name}", f"run: chmod 600 {shlex.quote(_show(path))}")]


def _show(path: Path) -> str:
    return path.name if path.name == ENV_FILE else str(path.absolute())


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
