"""The settings model: the keys that stand above the sections, and what can be asked of it all."""

from typing import Any

from pydantic import PrivateAttr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from syncctl.core.stream import Partner, Source, Stream
from syncctl.settings import fields, mask_fields, urls
from syncctl.settings.layers import Layer, Layers
from syncctl.settings.sections import (
    BeatSettings,
    LogSettings,
    PartnerSettings,
    RetentionSettings,
    SourceSettings,
    StreamSettings,
    WorkerSettings,
    setting,
)


class LayerSource(PydanticBaseSettingsSource):
    """One layer of settings, as pydantic-settings takes them: the first source wins."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self.layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return nothing: a layer is handed over whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the layer's values."""
        return self.layer.tree


class Settings(BaseSettings):
    """Everything an operator can set. Made by `load_settings`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    redis_url: urls.RedisUrl = setting("redis://localhost:6379/0", "Redis: redis:// or rediss:// (TLS)", secret=True)
    mongo_url: urls.MongoUrl = setting(
        "mongodb://localhost:27017/celery_logs",
        "MongoDB; the path names the database of the ledger",
        secret=True,
    )
    source_url: urls.SourceUrl = setting(
        None,
        "SQL Server: an SQLAlchemy URL or a raw ODBC connection string",
        sample="mssql+pyodbc://reader:secret@sqlserver:1433/erp",
        secret=True,
    )
    partner_url: urls.PartnerUrl = setting(
        None, "the partner's API", sample="https://api.partner.example/v1", secret=True
    )
    partner_token: fields.Token = setting(None, "sent as Authorization: Bearer; empty: no token", secret=True)
    mask_secret: mask_fields.MaskSecret = setting(
        None, "what the mask hash is made with; make one, and keep it: openssl rand -hex 32", secret=True
    )
    redis_prefix: fields.Text = setting("syncctl", "begins every key in Redis, so that one Redis can be shared")

    sources: dict[fields.Name, SourceSettings] = setting({}, "a second source is a second named table")
    partners: dict[fields.Name, PartnerSettings] = setting({}, "a second partner is a second named table")
    streams: dict[fields.Name, StreamSettings] = setting({}, "one table per stream")
    retention: RetentionSettings = setting({}, "")
    beat: BeatSettings = setting({}, "")
    worker: WorkerSettings = setting({}, "")
    log: LogSettings = setting({}, "")

    _layers: Layers = PrivateAttr(default_factory=Layers)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take our layers in place of what pydantic-settings reads: they know where each value stands."""
        layers: Layers = init_settings().get("layers", Layers())
        return tuple(LayerSource(settings_cls, layer) for layer in layers.layers)

    def __init__(self, *, layers: Layers) -> None:
        super().__init__(layers=layers)
        self._layers = layers

    @property
    def layers(self) -> Layers:
        """Return where the values come from."""
        return self._layers

    @property
    def mongo_database(self) -> str:
        """Return the ledger's database: the path of `mongo_url`, `celery_logs` where it has none."""
        return urls.find_mongo_database(self.mongo_url)

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
        from syncctl.settings import convert

        return convert.to_source(self, name)

    def partner(self, name: str) -> Partner:
        """Return a partner.

        Raises:
            UsageError: for a name that is not configured.
            ConfigurationError: when its URL or its token is not set.
        """
        from syncctl.settings import convert

        return convert.to_partner(self, name)

    def partners_in_use(self) -> list[Partner]:
        """Return the partners that streams name and that can be called: those whose settings are complete."""
        from syncctl.settings import convert

        return convert.to_partners_in_use(self)

    def find_secret_name(self, name: str) -> str | None:
        """Return the variable that holds the one secret of a partner's auth; None where that is not known."""
        from syncctl.settings import convert

        return convert.find_secret_name(self, name)

    def stream(self, name: str) -> Stream:
        """Return a stream.

        Raises:
            UsageError: for a name that is not configured.
        """
        from syncctl.settings import convert

        return convert.to_stream(self, name)

    def check(self) -> None:
        """Check that everything the streams need is set.

        Raises:
            ConfigurationError: with one line for each thing that is missing.
        """
        from syncctl.settings import convert

        convert.check_complete(self)

    def secrets(self) -> frozenset[str]:
        """Return the passwords and tokens in use, in every spelling, to be masked wherever text goes out."""
        from syncctl.settings import convert

        return convert.collect_secrets(self)
