"""The rules of alerts, in one table: what each rule measures, in which unit, and when it fires by default.

CONTRIBUTING.md lists the other places that a new rule needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from syncctl.core.durations import format_age, format_duration, parse_duration

Unit = Literal["seconds", "share"]
OFF = "off"
ENDS_BELOW = 0.8
"""An alert ends below this share of its threshold: a value around the threshold does not fire again and again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """One rule."""

    name: str
    #: The unit of the value and its threshold: how long something has lasted, or a share between 0 and 1.
    unit: Unit
    #: The threshold as the settings write it; `off` if only the settings can switch the rule on.
    default: str
    #: The condition for firing, as the end of the sentence "it fires if ...".
    fires_if: str
    #: The next command; `{stream}` and `{partner}` are filled in.
    hint: str
    #: The next command where the alert is about a source.
    source_hint: str = ""
    #: Its query costs more than the others', so it is measured only once a minute.
    is_costly: bool = False


_RULES = (
    AlertRule(
        name="failed_share",
        unit="share",
        default="0.05",
        fires_if="the share of failed records among those that finished within the last hour reaches the threshold",
        hint="syncctl failures --stream {stream}",
    ),
    AlertRule(
        name="backlog_age",
        unit="seconds",
        default="15m",
        fires_if="a record of the stream has been due for as long as the threshold, although nothing holds the stream",
        hint="syncctl status",
    ),
    AlertRule(
        name="no_poll",
        unit="seconds",
        default="15m",
        fires_if="the stream has had no poll without an error for as long as the threshold, beyond poll_every",
        hint="syncctl poll {stream} --once",
        source_hint="syncctl doctor source",
    ),
    AlertRule(
        name="circuit_open",
        unit="seconds",
        default="5m",
        fires_if="the circuit of a stream has been open for as long as the threshold: the partner is down",
        hint="syncctl doctor partner {partner}",
    ),
    AlertRule(
        name="paused",
        unit="seconds",
        default="1h",
        fires_if="the stream or its partner has been paused for as long as the threshold",
        hint="syncctl status",
    ),
    AlertRule(
        name="obstacle",
        unit="seconds",
        default="30m",
        fires_if="something else has held the stream for as long as the threshold; syncctl status shows it",
        hint="syncctl doctor streams {stream}",
        is_costly=True,
    ),
    AlertRule(
        name="schema_changed",
        unit="seconds",
        default="5m",
        fires_if="columns of the stream's source changed at least as long ago as the threshold; "
        "the alert ends after an hour",
        hint="syncctl doctor streams {stream}",
    ),
    AlertRule(
        name="no_worker",
        unit="seconds",
        default="2m",
        fires_if="no worker has been alive for as long as the threshold",
        hint="syncctl worker",
    ),
    AlertRule(
        name="no_beat",
        unit="seconds",
        default="2m",
        fires_if="Beat has not been alive for as long as the threshold",
        hint="syncctl beat",
    ),
)
RULES: Mapping[str, AlertRule] = {rule.name: rule for rule in _RULES}
DEFAULTS: Mapping[str, str | float] = {
    rule.name: float(rule.default) if rule.unit == "share" else rule.default for rule in _RULES
}


def parse_threshold(rule: AlertRule, text: str) -> float | None:
    """Return the threshold of a rule: seconds, or a share; None if it is off.

    Raises:
        ValueError: with the form that is allowed.
    """
    if text.strip().lower() == OFF:
        return None
    if rule.unit == "seconds":
        seconds = parse_duration(text)
        if seconds <= 0:
            raise ValueError(f'must be longer than 0; write "{OFF}" to switch the rule off')
        return seconds
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f'must be a share above 0 and up to 1, such as 0.05, or "{OFF}"')
    return share


def format_value(rule: str, value: float) -> str:
    """Return a measured value for people: `12m`, `7.5 %`."""
    if rule in RULES and RULES[rule].unit == "share":
        return f"{100 * value:.3g} %"
    return format_age(value)


def format_threshold(rule: str, threshold: float) -> str:
    """Return a threshold for people: `15m`, `5 %`."""
    if rule in RULES and RULES[rule].unit == "share":
        return format_value(rule, threshold)
    return format_duration(threshold)
