"""The types of the settings that are URLs: of Redis, MongoDB, sources, partners, token endpoints and proxies."""

import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator

from syncctl.settings.field_types import Kind, OptionalText

_MONGO_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(:\d{1,5})?")
_REDIS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_SQLALCHEMY = re.compile(r"[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://", re.IGNORECASE)


def is_dots(segment: str) -> bool:
    """Tell whether a segment of a path is `.` or `..`, also encoded: servers and proxies resolve it."""
    return unquote(segment) in (".", "..")


def _split(url: str) -> SplitResult:
    # The text of these errors can hold the password, so nothing of them is passed on.
    try:
        parts = urlsplit(url)
        _ = parts.hostname
    except ValueError:
        raise ValueError("is not a URL; percent-encode special characters of user and password") from None
    if parts.fragment:
        raise ValueError("has a # in it; percent-encode special characters of user and password")
    return parts


def _check_host_and_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        raise ValueError(
            "has a port that is not a number up to 65535; percent-encode special characters of user and password"
        ) from None
    if not parts.hostname:
        raise ValueError("has no host")
    if port == 0:
        raise ValueError("has port 0")


def _check_redis_url(url: str) -> str:
    parts = _split(url)
    if parts.scheme == "unix":
        raise ValueError(
            "is a socket, which Celery does not support; let Redis listen on a port: redis://localhost:6379/0"
        )
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("must begin with redis:// or rediss://")
    _check_host_and_port(parts)
    _check_redis_options(parts)
    if re.fullmatch(r"/?\d*", parts.path) is None:
        raise ValueError("must end in the number of a database, as in redis://localhost:6379/0")
    return url


def _check_redis_options(parts: SplitResult) -> None:
    """Refuse a query that Celery and our own client do not read alike."""
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if parts.scheme == "redis" or name not in _REDIS_OPTIONS:
            raise ValueError(
                "has a query that Celery does not support; write redis://user:password@host:6379/0; only rediss:// may "
                f"have a query, with {', '.join(_REDIS_OPTIONS)}"
            )


def _check_mongo_url(url: str) -> str:
    parts = _split(url)
    if parts.scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    hosts = parts.netloc.rpartition("@")[2]
    if not hosts:
        raise ValueError("has no host")
    if not all(_MONGO_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ValueError("has a host:port that cannot be read; percent-encode special characters of user and password")
    database = find_mongo_database(url)
    if "@" in database or "/" in database:
        raise ValueError("has a password or a path that must be percent-encoded")
    if len(database.encode()) > 63 or set('\\. "$*<>:|?\0') & set(database):
        raise ValueError("must end in the name of a database, as in mongodb://localhost:27017/celery_logs")
    return url


def find_mongo_database(url: str) -> str:
    """Return the database that the path of a MongoDB URL names, `celery_logs` where it names none."""
    return unquote(urlsplit(url).path.lstrip("/")) or "celery_logs"


def _check_source_url(url: str | None) -> str | None:
    if url is None or _SQLALCHEMY.match(url) or (";" in url and "=" in url):
        return url
    raise ValueError(
        "is neither an SQLAlchemy URL (mssql+pyodbc://user:password@host:1433/database) "
        "nor an ODBC connection string (Driver=...;Server=...;Database=...)"
    )


def _split_web(url: str, advice: str) -> SplitResult:
    """Return the parts of an address that is called.

    Args:
        advice: Where a user and a password belong.
    """
    parts = _split(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https:// or http://")
    _check_host_and_port(parts)
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"contains a user or a password; {advice}")
    return parts


def _check_partner_url(url: str | None) -> str | None:
    if url is None:
        return None
    parts = _split_web(url, "remove them and set auth")
    if parts.query:
        raise ValueError(
            'has a query; put a key into auth (type = "api_key", in = "query"), and the rest into the path of each '
            "endpoint"
        )
    if any(is_dots(segment) for segment in parts.path.split("/")):
        raise ValueError("has a . or .. in its path, which servers resolve; write the path that is meant")
    return url


def _check_token_url(url: str | None) -> str | None:
    if url is not None:
        _split_web(url, "set client_id and client_secret")
    return url


def _check_proxy(url: str | None) -> str | None:
    if url is None:
        return None
    parts = _split(url)
    if parts.scheme != "http":
        raise ValueError("must begin with http://, as in http://user:password@proxy.example:3128")
    _check_host_and_port(parts)
    if parts.path.strip("/") or parts.query:
        raise ValueError("must end with the port, as in http://user:password@proxy.example:3128")
    return url


RedisUrl = Annotated[str, AfterValidator(_check_redis_url), Kind.URL]
MongoUrl = Annotated[str, AfterValidator(_check_mongo_url), Kind.URL]
SourceUrl = Annotated[OptionalText, AfterValidator(_check_source_url), Kind.URL]
PartnerUrl = Annotated[OptionalText, AfterValidator(_check_partner_url), Kind.URL]
TokenUrl = Annotated[OptionalText, AfterValidator(_check_token_url), Kind.URL]
ProxyUrl = Annotated[OptionalText, AfterValidator(_check_proxy), Kind.URL]
