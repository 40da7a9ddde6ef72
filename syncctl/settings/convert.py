"""From settings to the values that the rest of syncctl works with."""

from collections.abc import Collection

from syncctl.core.breaker import BreakerRules
from syncctl.core.durations import parse_rate
from syncctl.core.mapping import parse_fields
from syncctl.core.outcome import CONFLICT, Verdict
from syncctl.core.redaction import find_secrets, spell_secret
from syncctl.core.spelling import suggest
from syncctl.core.stream import Batching, Partner, RetrySchedule, Source, Stream
from syncctl.errors import UsageError
from syncctl.settings.credentials import list_missing, spell_partner_secrets, to_credentials, to_tls
from syncctl.settings.endpoints import NO_DELETES, split_endpoint
from syncctl.settings.model import Settings
from syncctl.settings.problems import Problem, make_error
from syncctl.settings.schema_paths import Path

_STOOD_IN_FOR = {("url",), ("auth", "token")}
"""What of a partner another setting may stand in for; anything else that is absent is missing."""


def to_source(settings: Settings, name: str) -> Source:
    """Return a source; see `Settings.source`."""
    _check_known("source", name, settings.sources)
    if problem := _find_url_problem(settings, "sources", name):
        raise make_error([problem])
    source = settings.sources[name]
    return Source(
        name=name,
        url=find_source_url(settings, name) or "",
        login_timeout_seconds=source.login_timeout,
        query_timeout_seconds=source.query_timeout,
    )


def to_partner(settings: Settings, name: str) -> Partner:
    """Return a partner; see `Settings.partner`."""
    _check_known("partner", name, settings.partners)
    if problems := _list_partner_problems(settings, name):
        raise make_error(problems)
    partner = settings.partners[name]
    return Partner(
        name=name,
        url=find_partner_url(settings, name) or "",
        auth=to_credentials(partner.auth, find_token(settings, name)),
        tls=to_tls(partner),
        proxy=partner.proxy or "",
        headers=partner.headers,
        timeout_seconds=partner.timeout_seconds,
        rate=parse_rate(partner.rate) if partner.rate else None,
        max_in_flight=partner.max_in_flight,
        breaker=BreakerRules(
            minimum_calls=partner.breaker.calls,
            failure_rate=partner.breaker.failures,
            open_seconds=partner.breaker.pause,
            longest_open_seconds=partner.breaker.longest_pause,
        ),
    )


def to_partners_in_use(settings: Settings) -> list[Partner]:
    """Return the partners that streams name; see `Settings.partners_in_use`."""
    names = dict.fromkeys(stream.partner for stream in settings.streams.values())
    return [to_partner(settings, name) for name in names if not _list_partner_problems(settings, name)]


def to_stream(settings: Settings, name: str) -> Stream:
    """Return a stream; see `Settings.stream`."""
    _check_known("stream", name, settings.streams)
    stream = settings.streams[name]
    method, path = split_endpoint(stream.endpoint)
    sends_deletes = stream.delete_endpoint != NO_DELETES
    own = stream.delete_endpoint if sends_deletes else None
    delete_method, delete_path = split_endpoint(own) if own else ("", "/")
    return Stream(
        name=name,
        source=stream.source,
        partner=stream.partner,
        table=stream.table,
        query=stream.query,
        key=stream.key,
        mode=stream.mode,
        cursor=stream.cursor,
        start=stream.start,
        lookback_seconds=stream.lookback,
        gap_timeout_seconds=stream.gap_timeout,
        columns=stream.columns,
        exclude=stream.exclude,
        where=stream.where,
        mask=stream.mask,
        mask_secret=settings.mask_secret or "",
        acknowledge=stream.acknowledge,
        acknowledge_failed=stream.acknowledge_failed,
        max_delete_share=stream.max_delete_share,
        decimals=stream.decimals,
        timezone=stream.timezone,
        poll_every_seconds=stream.poll_every,
        page_size=stream.page_size,
        method=method,
        path=path,
        delete_method=delete_method or None,
        delete_path=delete_path,
        sends_deletes=sends_deletes,
        content_type=stream.content_type,
        fields=parse_fields(stream.fields) if stream.fields else (),
        body=stream.body,
        headers=dict(stream.headers or {}),
        body_schema=str(settings.layers.directory / stream.body_schema) if stream.body_schema else None,
        order=stream.order,
        strict_hold_seconds=stream.strict_hold,
        retry=RetrySchedule(
            delays_seconds=stream.retry.schedule,
            jitter=stream.retry.jitter,
            give_up_after_seconds=stream.retry.give_up_after,
        ),
        outcomes={
            **({CONFLICT: Verdict.ACCEPTED} if stream.accept_conflict else {}),
            **{int(status): Verdict(meant) for status, meant in stream.outcomes.items()},
        },
        accepted_when=stream.accepted_when,
        ambiguous=stream.ambiguous,
        batch_size=stream.batch_size,
        batching=Batching(size=stream.batch, **stream.batch_shape.model_dump()),
        window=stream.window,
        lease_seconds=stream.lease,
        append_only=stream.append_only,
    )


def find_source_url(settings: Settings, name: str) -> str | None:
    """Return the URL of a source: its own, for `default` also SOURCE_URL."""
    return settings.sources[name].url or (settings.source_url if name == "default" else None)


def find_partner_url(settings: Settings, name: str) -> str | None:
    """Return the URL of a partner: its own, for `default` also PARTNER_URL."""
    return settings.partners[name].url or (settings.partner_url if name == "default" else None)


def find_token(settings: Settings, name: str) -> str | None:
    """Return the token of a partner: its own, for `default` also PARTNER_TOKEN; None where it takes none."""
    auth = settings.partners[name].auth
    if auth.type != "bearer":
        return None
    return auth.token or (settings.partner_token if name == "default" else None)


def find_secret_name(settings: Settings, name: str) -> str | None:
    """Return the variable that holds a partner's token or API key; see `Settings.find_secret_name`."""
    auth = settings.partners[name].auth
    if auth.type == "bearer" and name == "default" and not auth.token and settings.partner_token:
        return "PARTNER_TOKEN"
    secret = {"bearer": auth.token, "api_key": auth.value}.get(auth.type)
    return settings.layers.named.get(secret) if secret else None


def check_complete(settings: Settings) -> None:
    """Check that what streams use is set; see `Settings.check`."""
    streams = settings.streams.values()
    problems: list[Problem] = []
    for name in _used(settings.sources, {stream.source for stream in streams}):
        if problem := _find_url_problem(settings, "sources", name):
            problems.append(problem)
    for name in _used(settings.partners, {stream.partner for stream in streams}):
        problems += _list_partner_problems(settings, name)
    if not settings.mask_secret and any("hash" in stream.mask.values() for stream in streams):
        problems.append(_find_absent(settings, ("mask_secret",)) or _make_secret_missing())
    if problems:
        raise make_error(problems)


def collect_secrets(settings: Settings) -> frozenset[str]:
    """Return every password and token in use; see `Settings.secrets`."""
    urls = [settings.redis_url, settings.mongo_url, settings.source_url, settings.partner_url]
    urls += [source.url for source in settings.sources.values()]
    urls += [partner.url for partner in settings.partners.values()]
    found = [find_secrets(url) for url in urls if url]
    found += [spell_partner_secrets(name, partner) for name, partner in settings.partners.items()]
    found += [spell_secret(each) for each in (settings.partner_token, settings.mask_secret) if each]
    return frozenset[str]().union(*found)


def _used(configured: Collection[str], used: Collection[str]) -> list[str]:
    return [name for name in configured if name != "default" or name in used]


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        names = ", ".join(known)
        raise UsageError(
            f"there is no {kind} {name!r}",
            why=f"configured: {names}" if names else f"no {kind} is configured",
            hint=suggest(name, tuple(known)) if names else f"add [{kind}s.{name}] to syncctl.toml",
        )


def _find_url_problem(settings: Settings, section: str, name: str) -> Problem | None:
    find_url = find_source_url if section == "sources" else find_partner_url
    if find_url(settings, name):
        return None
    path = (section, name, "url")
    shared = f"{section.removesuffix('s')}_url"
    return (
        _find_absent(settings, path)
        or (_find_absent(settings, (shared,)) if name == "default" else None)
        or _make_missing(settings, path, shared.upper() if name == "default" else "")
    )


def _list_partner_problems(settings: Settings, name: str) -> list[Problem]:
    found = [_find_url_problem(settings, "partners", name), _find_token_problem(settings, name)]
    for path in list_missing(settings.partners[name].auth, name):
        found.append(_find_absent(settings, path) or _make_missing(settings, path, ""))
    known = {problem.key for problem in found if problem}
    for path in settings.layers.absent:
        if path[:2] == ("partners", name) and path[2:] not in _STOOD_IN_FOR and ".".join(path) not in known:
            found.append(_find_absent(settings, path))
    return [problem for problem in found if problem]


def _find_token_problem(settings: Settings, name: str) -> Problem | None:
    """Find a token that was asked for and is not there: calls without it would all be refused."""
    partner = settings.partners[name]
    if partner.auth.type != "bearer" or find_token(settings, name):
        return None
    path = ("partners", name, "auth", "token")
    absent = _find_absent(settings, path)
    if absent is None and name == "default":
        absent = _find_absent(settings, ("partner_token",))
    asked = "type" in partner.auth.model_fields_set and "token" not in partner.auth.model_fields_set
    if absent is None and asked:
        return _make_missing(settings, path, "PARTNER_TOKEN" if name == "default" else "")
    return absent


def _make_secret_missing() -> Problem:
    text = "is not set, and a mask is hash; make one with: openssl rand -hex 32, and set MASK_SECRET in .env"
    return Problem(key="mask_secret", origin="", text=text)


def _find_absent(settings: Settings, path: Path) -> Problem | None:
    return settings.layers.find_absent(path)


def _make_missing(settings: Settings, path: Path, variable: str) -> Problem:
    key = ".".join(path)
    own = variable or "__".join(path).upper().replace("-", "_")
    return Problem(
        key=key,
        origin=settings.layers.find_nearest_origin(path),
        text=f"is not set; set {own} in .env or the environment",
    )
