"""Settings that are not set although the streams need them."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from syncctl.partner.auth import KINDS
from syncctl.settings.child_section import find_mask_hash
from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import FILLED_IN, Path, read_key

if TYPE_CHECKING:
    from syncctl.settings.model import Settings


def list_missing(settings: "Settings") -> list[Problem]:
    """Return the settings that the streams and the alerts need and that are missing."""
    streams = settings.streams.values()
    problems: list[Problem] = []
    for name in _list_used(settings.sources, {stream.source for stream in streams}):
        problems += list_missing_of_source(settings, name)
    for name in _list_used(settings.partners, {stream.partner for stream in streams}):
        problems += list_missing_of_partner(settings, name)
    if not settings.mask_secret and any(
        "hash" in stream.mask.values() or find_mask_hash(stream.children) for stream in streams
    ):
        text = "is not set, and a mask is hash; create one with: openssl rand -hex 32, and set MASK_SECRET in .env"
        absent = settings.layers.find_absent(("mask_secret",))
        problems.append(absent or Problem(key="mask_secret", origin="", text=text))
    return problems + list_missing_of_alerts(settings)


def list_missing_of_alerts(settings: "Settings") -> list[Problem]:
    """Return the missing settings of the channels of alerts; without them nothing is sent through a channel."""
    absent = [path for path in settings.layers.absent if path[0] == "alerts"]
    problems = [problem for path in absent if (problem := settings.layers.find_absent(path))]
    if settings.alerts.email_to and not settings.alerts.smtp and not any(path[-1] == "smtp" for path in absent):
        origin = settings.layers.find_nearest_origin(("alerts", "email_to"))
        text = "is required with email_to; set it to the mail server, as in smtp://mail.example:587"
        problems.append(Problem(key="alerts.smtp", origin=origin, text=text))
    return problems


def list_missing_of_source(settings: "Settings", name: str) -> list[Problem]:
    """Return the missing settings of a source: its URL."""
    return [] if settings.sources[name].url else [_explain(settings, ("sources", name, "url"))]


def list_missing_of_partner(settings: "Settings", name: str) -> list[Problem]:
    """Return the missing settings of a partner: its URL, and the credentials of its auth."""
    partner, layers = settings.partners[name], settings.layers
    problems = [] if partner.url else [_explain(settings, ("partners", name, "url"))]
    token = ("partners", name, "auth", "token")
    if partner.auth.type == "bearer" and not partner.auth.token:
        # A partner without an auth section needs no token, but one that is referred to or required must be set.
        absent = layers.find_absent(token) or (layers.find_absent(("partner_token",)) if name == "default" else None)
        if absent or ("type" in partner.auth.model_fields_set and "token" not in partner.auth.model_fields_set):
            problems.append(absent or _explain(settings, token))
    for key in KINDS[partner.auth.type].needs:
        if read_key(partner.auth, key) is None:
            problems.append(_explain(settings, ("partners", name, "auth", key)))
    known = {problem.key for problem in problems}
    for path in layers.absent:
        is_filled_in = path == token or path[2:] == ("url",)
        if path[:2] == ("partners", name) and not is_filled_in and ".".join(path) not in known:
            problems += [problem] if (problem := layers.find_absent(path)) else []
    return problems


def _list_used(configured: Collection[str], used: Collection[str]) -> list[str]:
    """Return the sections that must be complete: all but an unused `default`, which always exists."""
    return [name for name in configured if name != "default" or name in used]


def _explain(settings: "Settings", path: Path) -> Problem:
    """Return why a setting is missing: its `${NAME}` is not set, or the setting itself is not."""
    layers, shared = settings.layers, FILLED_IN.get(path)
    absent = layers.find_absent(path) or (layers.find_absent((shared,)) if shared else None)
    variable = shared.upper() if shared else "__".join(path).upper().replace("-", "_")
    text = f"is not set; set {variable} in .env or the environment"
    return absent or Problem(key=".".join(path), origin=layers.find_nearest_origin(path), text=text)
