"""The sections of the settings, every key with its type, its default and what it is for."""

from typing import Annotated, Literal

from syncctl.settings import fields, urls
from syncctl.settings.partner_sections import AuthSettings, BreakerSettings, PartnerSettings
from syncctl.settings.section import Section, setting
from syncctl.settings.stream_sections import BatchShapeSettings, RetrySettings, StreamSettings

__all__ = [
    "AuthSettings", "BatchShapeSettings", "BeatSettings", "BreakerSettings", "LogSettings", "PartnerSettings",
    "RetentionSettings", "RetrySettings", "Section", "SourceSettings", "StreamSettings", "WorkerSettings", "setting",
]  # fmt: skip


class SourceSettings(Section):
    """A SQL database that is read."""

    url: urls.SourceUrl = setting(
        None,
        "SQLAlchemy URL or ODBC connection string; default: SOURCE_URL",
        sample="${SOURCE_URL}",
        secret=True,
    )
    login_timeout: fields.Duration = setting("10s", "give up connecting after this")
    query_timeout: fields.Duration = setting("60s", "give up a query after this")


class RetentionSettings(Section):
    """How long finished records are kept."""

    delivered: fields.Duration = setting("30d", "the partner has them")
    failed: fields.Duration = setting("90d", "the partner refused them, or the schedule was used up")
    superseded: fields.Duration = setting("7d", "a newer version made them pointless")
    discarded: fields.Duration = setting("90d", "an operator gave them up")

    @property
    def delivered_seconds(self) -> float:
        """Return how long a delivered record is kept."""
        return self.delivered

    @property
    def failed_seconds(self) -> float:
        """Return how long a failed record is kept."""
        return self.failed

    @property
    def superseded_seconds(self) -> float:
        """Return how long a superseded record is kept."""
        return self.superseded

    @property
    def discarded_seconds(self) -> float:
        """Return how long a discarded record is kept."""
        return self.discarded


class BeatSettings(Section):
    """How often Beat starts the standing work."""

    upkeep_every: fields.Duration = setting("5s", "return expired leases, dispatch what is due")
    roll_up_every: fields.Duration = setting("1m", "recompute the open hours of the reports")
    cleanup_every: fields.Duration = setting("10m", "remove what [retention] no longer keeps")

    @property
    def upkeep_every_seconds(self) -> float:
        """Return the interval of the upkeep."""
        return self.upkeep_every

    @property
    def roll_up_every_seconds(self) -> float:
        """Return the interval of the roll-up."""
        return self.roll_up_every

    @property
    def cleanup_every_seconds(self) -> float:
        """Return the interval of the cleanup."""
        return self.cleanup_every


class WorkerSettings(Section):
    """What `syncctl worker` starts where no flag says otherwise."""

    pool: Annotated[Literal["prefork", "threads", "solo"], fields.Lower] = setting(
        "prefork", "prefork | threads | solo"
    )
    concurrency: fields.Whole = setting(4, "processes or threads of one worker")


class LogSettings(Section):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], fields.Lower] = setting(
        "info", "debug | info | warning | error"
    )
    format: Annotated[Literal["auto", "text", "json"], fields.Lower] = setting(
        "auto", "auto | text | json; auto is text on a terminal and json elsewhere"
    )
