"""The types of the settings that are URLs: of Redis, MongoDB, sources, partners, token endpoints and proxies."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator

from syncctl.core.redaction import find_secret_spans
from syncctl.partner.address import check_host_and_port, parse_base_url, parse_proxy_url, parse_token_url, split_url
from syncctl.settings.field_types import Kind, OptionalText, parsed_by

_MONGO_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(:\d{1,5})?")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECOND_AT = re.compile(r"^[^:]*://[^/?#]+[/?#].*@", re.DOTALL)
_WITHOUT_PASSWORD = re.compile(r"[^:]*://[^/?#:@]+/[^?#:@]*\?[^:#]*@[^@]*")
"""A URL with an @ only in its query, as in UID=me@example.com; without a colon before it, the @ ends no password."""
_REDIS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_SQLALCHEMY = re.compile(r"[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://", re.IGNORECASE)
_SQLITE_NAME = re.compile(r"\.(db|sqlite3?)$", re.IGNORECASE)
_DRIVE = re.compile(r"^[a-z]:(?=[\\/])", re.IGNORECASE)
"""The letter of a drive, as in C:\\data\\orders.db."""

DEFAULT_DATABASE = "celery_logs"


def _check_redis_url(url: str) -> str:
    parts = split_url(url)
    if parts.scheme == "unix":
        raise ValueError(
            "is a socket, which Celery does not support; let Redis listen on a port: redis://localhost:6379/0"
        )
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("must begin with redis:// or rediss://")
    check_host_and_port(parts)
    if parts.username and parts.password is None:
        raise ValueError(
            "has a user without a password; a password alone has a colon before it: redis://:password@host"
        )
    _refuse_at_in_password(parts)
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
    parts = split_url(url)
    if parts.scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    _refuse_at_in_password(parts)
    _refuse_bare_percent(parts)
    hosts = parts.netloc.rpartition("@")[2]
    if not hosts:
        raise ValueError("has no host")
    if not all(_MONGO_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ValueError("has a host:port that cannot be read; percent-encode special characters of user and password")
    database = find_mongo_database(url)
    _refuse_second_at(url)
    if "/" in database:
        raise ValueError("has a password or a path that must be percent-encoded")
    if len(database.encode()) > 63 or set('\\. "$*<>:|?\0') & set(database):
        raise ValueError("must end in the name of a database, as in mongodb://localhost:27017/celery_logs")
    return url


def _refuse_at_in_password(parts: SplitResult) -> None:
    """Refuse more than one @ before the host: programs disagree on where the password ends."""
    if parts.netloc.count("@") > 1:
        raise ValueError("has an @ in its user or password; percent-encode it as %40")


def _refuse_bare_percent(parts: SplitResult) -> None:
    """Refuse a % that begins no encoded character; the driver refuses it too, but with an error in terms of Python."""
    if _BARE_PERCENT.search(parts.netloc.rpartition("@")[0]):
        raise ValueError("has a % in its user or password that begins no encoded character; write it as %25")


def _refuse_second_at(url: str) -> None:
    """Refuse an @ after the host: the text up to it may be the rest of a password."""
    if _SECOND_AT.search(url) and not _WITHOUT_PASSWORD.fullmatch(url):
        raise ValueError(
            "has an @ behind its host; percent-encode special characters of user, password and parameters, @ as %40"
        )


def find_mongo_database(url: str) -> str:
    """Return the database that the path of a MongoDB URL names, `celery_logs` if it names none."""
    return unquote(urlsplit(url).path.lstrip("/")) or DEFAULT_DATABASE


def _find_sqlite_path(text: str) -> Path | None:
    """Return the full path of the file that a text names, or seems to name; None for any other text.

    A text with a colon or an @ may hold a password, and is a path only if the file exists.
    """
    try:
        path = Path(text).expanduser().absolute()
        is_path = path.is_file() or (_SQLITE_NAME.search(text) and not set(":@") & set(_DRIVE.sub("", text)))
    except (OSError, RuntimeError, ValueError):
        # The path is too long, names an unknown home directory, or contains a NUL.
        return None
    # The query of a URL begins after a question mark.
    return path if is_path and "?" not in path.as_posix() else None


def _check_source_url(url: str | None) -> str | None:
    if url is None:
        return None
    if _SQLALCHEMY.match(url):
        _refuse_second_at(url)
        _refuse_at_in_password(urlsplit(url))
        return url
    if ";" in url and "=" in url:
        if any("=" not in url[len(url[:start].rstrip()) - 1 : end] for start, end in find_secret_spans(url)):
            raise ValueError(
                "has a password that contains a ;, or text after it without Name=; put it in braces: Pwd={...}"
            )
        return url
    if path := _find_sqlite_path(url):
        raise ValueError(f"is the path of a file; write it as a URL: sqlite:///{path.as_posix()}")
    raise ValueError(
        "is neither an SQLAlchemy URL (mssql+pyodbc://user:password@host:1433/database) "
        "nor an ODBC connection string (Driver=...;Server=...;Database=...)"
    )


RedisUrl = Annotated[str, AfterValidator(_check_redis_url), Kind.URL]
MongoUrl = Annotated[str, AfterValidator(_check_mongo_url), Kind.URL]
SourceUrl = Annotated[OptionalText, AfterValidator(_check_source_url), Kind.URL]
PartnerUrl = Annotated[OptionalText, parsed_by(parse_base_url), Kind.URL]
TokenUrl = Annotated[OptionalText, parsed_by(parse_token_url), Kind.URL]
ProxyUrl = Annotated[OptionalText, parsed_by(parse_proxy_url), Kind.URL]
