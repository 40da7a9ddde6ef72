"""The settings model: the top-level keys, the small sections, and the values that the pipeline gets."""

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import PrivateAttr, ValidationInfo, field_validator

from syncctl.channels.addresses import spell_webhook_secrets
from syncctl.core.dependency_cycles import find_cycles
from syncctl.core.redaction import find_secrets, spell_secret
from syncctl.core.spelling import suggest
from syncctl.core.stream import Partner, Source, Stream
from syncctl.errors import UsageError
from syncctl.partner.auth import KINDS
from syncctl.partner.proxy import spell_proxy_secrets
from syncctl.partner.secrets import spell_header_secrets
from syncctl.settings import missing
from syncctl.settings.alerts_section import AlertsSettings
from syncctl.settings.child_section import list_child_names
from syncctl.settings.field_types import (
    Duration,
    Kind,
    Lower,
    MaskSecret,
    Name,
    OptionalText,
    Text,
    Token,
    Whole,
    find_kind,
)
from syncctl.settings.partner_section import PartnerSettings
from syncctl.settings.problems import make_error
from syncctl.settings.schema_paths import list_values, read_value
from syncctl.settings.section import Broken, Section, rule, setting
from syncctl.settings.stream_section import StreamSettings
from syncctl.settings.url_types import DEFAULT_DATABASE, MongoUrl, PartnerUrl, RedisUrl, SourceUrl, find_mongo_database

if TYPE_CHECKING:
    from syncctl.settings.layers import Layers

T = TypeVar("T", bound=Section)


class SourceSettings(Section):
    """A SQL database that is read."""

    url: SourceUrl = setting(
        None,
        "SQLAlchemy URL or ODBC connection string; default: SOURCE_URL",
        sample="${SOURCE_URL}",
        secret=True,
    )
    login_timeout: Duration = setting("10s", "maximum time to connect")
    query_timeout: Duration = setting("60s", "maximum time of a query")


class RetentionSettings(Section):
    """How long finished records are kept."""

    delivered: Duration = setting("30d", "records that the partner accepted")
    failed: Duration = setting("90d", "records that the partner refused, or whose schedule was used up")
    superseded: Duration = setting("7d", "records that a newer version replaced")
    discarded: Duration = setting("90d", "records that an operator gave up")
    archive: OptionalText = setting(
        None,
        "directory to which records are archived before they are deleted (then restart all workers); default: none",
        sample="/srv/syncctl-archive",
    )


class BeatSettings(Section):
    """How often Beat starts regular work."""

    upkeep_every: Duration = setting("5s", "bring back records of expired leases, wake workers for due records")
    roll_up_every: Duration = setting("1m", "recompute the open hours of the reports")
    cleanup_every: Duration = setting("10m", "delete records after the time in [retention]")


class WorkerSettings(Section):
    """How workers run, unless a flag says otherwise."""

    pool: Annotated[Literal["prefork", "threads", "solo"], Lower] = setting("prefork", "prefork | threads | solo")
    concurrency: Whole = setting(4, "processes or threads of one worker")
    remote_control: bool = setting(
        False, "take commands of celery inspect and control; whoever can write to Redis can then stop workers"
    )


class LogSettings(Section):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = setting(
        "info", "debug | info | warning | error"
    )
    format: Annotated[Literal["auto", "text", "json"], Lower] = setting(
        "auto", "auto | text | json; auto: text on a terminal, otherwise json"
    )
    attempts: bool = setting(False, "true: log each call to a partner, with its record and outcome")


class Settings(Section):
    """Everything an operator can set. Made by `load_settings`."""

    redis_url: RedisUrl = setting("redis://localhost:6379/0", "Redis: redis:// or rediss:// (TLS)", secret=True)
    mongo_url: MongoUrl = setting(
        "mongodb://localhost:27017/celery_logs",
        "MongoDB; the path is the name of the ledger's database",
        secret=True,
    )
    source_url: SourceUrl = setting(
        None,
        "SQL Server: an SQLAlchemy URL or an ODBC connection string",
        sample="mssql+pyodbc://reader:secret@sqlserver:1433/erp",
        secret=True,
    )
    partner_url: PartnerUrl = setting(
        None, "base URL of the partner's API", sample="https://api.partner.example/v1", secret=True
    )
    partner_token: Token = setting(None, "sent as Authorization: Bearer; empty: no token", secret=True)
    mask_secret: MaskSecret = setting(
        None, "key of the mask hash; create one and keep it: openssl rand -hex 32", secret=True
    )
    redis_prefix: Text = setting("syncctl", "prefix of every key in Redis, so that installations can share one Redis")
    project: OptionalText = setting(
        None,
        "name of this project, which keeps its queues and its ledger from others; default: the ledger's database",
        sample="erp",
    )

    sources: dict[Name, SourceSettings] = setting({}, "one table per source")
    partners: dict[Name, PartnerSettings] = setting({}, "one table per partner")
    streams: dict[Name, StreamSettings] = setting({}, "one table per stream")
    alerts: AlertsSettings = setting({})
    retention: RetentionSettings = setting({})
    beat: BeatSettings = setting({})
    worker: WorkerSettings = setting({})
    log: LogSettings = setting({})

    _layers: "Layers" = PrivateAttr()

    def model_post_init(self, layers: Any, /) -> None:
        """Keep the layers that the settings were read from."""
        self._layers = layers

    @field_validator("sources")
    @classmethod
    def _fill_in_source(cls, sources: dict[str, SourceSettings], info: ValidationInfo) -> dict[str, SourceSettings]:
        """Use `source_url` as the URL of the source `default` if that has none."""
        url = info.data.get("source_url")
        return {name: _fill_in(source, url=url) if name == "default" else source for name, source in sources.items()}

    @field_validator("partners")
    @classmethod
    def _fill_in_partner(cls, partners: dict[str, PartnerSettings], info: ValidationInfo) -> dict[str, PartnerSettings]:
        """Use `partner_url` and `partner_token` for the partner `default` if that has none."""
        url, token = info.data.get("partner_url"), info.data.get("partner_token")
        filled = dict(partners)
        if "default" in partners:
            default = _fill_in(partners["default"], url=url)
            if default.auth.type == "bearer":
                default = default.model_copy(update={"auth": _fill_in(default.auth, token=token)})
            filled["default"] = default
        return filled

    @rule("streams")
    def _check_after(self) -> Broken:
        after = {name: stream.after for name, stream in self.streams.items() if stream.after}
        for cycle in find_cycles(after) if after else ():
            path = " -> ".join([*cycle, cycle[0]])
            text = "names the stream itself" if len(cycle) == 1 else f"goes in a circle, {path}, and none would be sent"
            yield f"streams.{cycle[0]}.after", f"{text}; remove {cycle[1 % len(cycle)]} from it"

    @property
    def layers(self) -> "Layers":
        """Return the layers that the values come from."""
        return self._layers

    @property
    def mongo_database(self) -> str:
        """Return the ledger's database: the path of `mongo_url`, `celery_logs` if it has none."""
        return find_mongo_database(self.mongo_url)

    @property
    def project_name(self) -> str:
        """Return the project's name, by default that of the ledger's database."""
        return self.project or self.mongo_database

    @property
    def redis_namespace(self) -> str:
        """Return the beginning of every key in Redis, which is the project's own."""
        own = "" if self.project_name == DEFAULT_DATABASE else f"{self.project_name}:"
        return f"{self.redis_prefix}:{own}"

    @property
    def is_configured(self) -> bool:
        """Tell whether a setting identifies the project; the defaults mean whatever runs on this machine."""
        named = ("project", "mongo_url", "redis_url", "streams")
        return any(self.layers.find_origin((name,)) is not None for name in named) or bool(self.streams)

    @property
    def archive_directory(self) -> FilePath | None:
        """Return the directory of the archive; None if records are not archived."""
        return self.layers.directory / self.retention.archive if self.retention.archive else None

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Return the names of all configured streams, in the order in which they were written."""
        return tuple(self.streams)

    def source(self, name: str) -> Source:
        """Return a source.

        Raises:
            UsageError: for a name that is not configured.
            ConfigurationError: when its URL is not set.
        """
        section = _find("source", name, self.sources)
        if problems := missing.list_missing_of_source(self, name):
            raise make_error(problems)
        return section.build(Source, name=name)

    def partner(self, name: str) -> Partner:
        """Return a partner.

        Raises:
            UsageError: for a name that is not configured.
            ConfigurationError: when its URL or a credential is not set.
        """
        section = _find("partner", name, self.partners)
        if problems := missing.list_missing_of_partner(self, name):
            raise make_error(problems)
        return section.make_partner(name)

    def partners_in_use(self) -> list[Partner]:
        """Return the partners that streams use, except those whose settings are incomplete."""
        names = dict.fromkeys(stream.partner for stream in self.streams.values())
        return [self.partner(name) for name in names if not missing.list_missing_of_partner(self, name)]

    def stream(self, name: str) -> Stream:
        """Return a stream.

        Raises:
            UsageError: for a name that is not configured.
        """
        section = _find("stream", name, self.streams)
        return section.make_stream(name, mask_secret=self.mask_secret or "", directory=self.layers.directory)

    def check(self) -> None:
        """Check that everything that the streams need is set.

        Raises:
            ConfigurationError: with one line for each missing setting.
        """
        if problems := missing.list_missing(self):
            raise make_error(problems)

    def find_secret_name(self, name: str) -> str | None:
        """Return the variable that holds the one secret of a partner's auth; None if it is not known."""
        auth = self.partners[name].auth
        secret = {"bearer": auth.token, "api_key": auth.value}.get(auth.type)
        if not secret:
            return None
        shared = "PARTNER_TOKEN" if name == "default" and secret == self.partner_token else None
        return self.layers.named.get(secret) or shared

    def secrets(self) -> frozenset[str]:
        """Return the passwords and tokens in use, in every spelling, so that all output can be masked."""
        found: set[str] = set()
        for path, field in list_values(Settings, self.section_names()):
            kind, value = find_kind(field), read_value(self, path)
            if value and kind is Kind.URL:
                found |= find_secrets(value)
            elif value and kind is Kind.CREDENTIAL:
                texts = spell_header_secrets(value) if isinstance(value, Mapping) else [value]
                found |= {spelling for text in texts for spelling in spell_secret(text)}
        for partner in self.partners.values():
            found |= KINDS[partner.auth.type].spell_secrets(partner.auth.list_values())
            found |= spell_proxy_secrets(partner.proxy or "")
        found |= spell_proxy_secrets(self.alerts.proxy or "")
        found |= spell_webhook_secrets(self.alerts.webhook) if self.alerts.webhook else set()
        return frozenset(found)

    def section_names(self) -> dict[str, tuple[str, ...]]:
        """Return the names under `sources`, `partners`, `streams` and the `children` of streams, by these paths."""
        names = {"sources": tuple(self.sources), "partners": tuple(self.partners), "streams": tuple(self.streams)}
        for name, stream in self.streams.items():
            names |= list_child_names(stream.children, f"streams.{name}.children")
        return names


def _fill_in(section: T, **shared: str | None) -> T:
    """Return a section with shared values for the keys that it leaves out."""
    update = {key: value for key, value in shared.items() if value is not None and getattr(section, key) is None}
    return section.model_copy(update=update) if update else section


def _find(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name in known:
        return known[name]
    names = ", ".join(known)
    raise UsageError(
        f"there is no {kind} {name!r}",
        why=f"configured: {names}" if names else f"no {kind} is configured",
        hint=suggest(name, tuple(known)) if names else f"add [{kind}s.{name}] to syncctl.toml",
    )
