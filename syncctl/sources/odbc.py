"""ODBC: the driver, the connection string with its encryption, and the connection."""

import importlib.util
import math
import platform
import queue
import re
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError
from syncctl.sources.driver_errors import Address

DEFAULT_PORT = 1433
_MICROSOFT = re.compile(r"ODBC Driver (\d+(?:\.\d+)?) for SQL Server", re.IGNORECASE)
_PAIR = re.compile(r"\s*([^=;{}]+?)\s*=\s*(?:\{((?:[^}]|\}\})*)\}|([^;]*))\s*(?:;|$)")
_SERVER = re.compile(r"(?:(?:tcp|np|lpc|admin):)?([^,\\]+)(\\[^,]+)?(?:,\s*(\d+))?", re.IGNORECASE)
_ALIASES = {"address": "server", "addr": "server", "network address": "server", "user": "uid", "user id": "uid"}
_ALIASES |= {"password": "pwd", "initial catalog": "database", "application name": "app"}
_OFF = frozenset({"no", "optional", "false", "0", "off", "request"})
_YES = frozenset({"yes", "true", "1"})
# FreeTDS ignores Encrypt, and refuses a word that it does not know. Its `request` corresponds to Encrypt=no of
# Microsoft's driver: only the login is encrypted, or everything if the server insists.
_FREETDS_WORDS = {"strict": "strict", "off": "off", "request": "request"}
_DATETIMEOFFSET = -155
_UDT = -151


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """An ODBC driver, by its registered name or the path of its library."""

    name: str
    origin: str
    warning: str = ""

    @property
    def is_freetds(self) -> bool:
        """Tell whether the driver is FreeTDS, which has different keywords and fewer types."""
        return "tds" in self.name.rpartition("/")[2].lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Encryption:
    """The encryption that a connection string asks for."""

    #: Whether encryption is asked for; None if a DSN of the driver manager decides.
    is_asked: bool | None
    #: Whether the connection fails on a server that only pretends to be the right one.
    is_certificate_checked: bool
    #: The part of the connection string that sets this; empty for the default.
    setting: str = ""


def load_pyodbc() -> Any:
    """Return pyodbc with its own pooling off, because SQLAlchemy pools connections and recognises dead ones.

    Raises:
        ConfigurationError: The ODBC library of the system is missing.
    """
    try:
        import pyodbc  # type: ignore[import-not-found]
    except ImportError as error:
        library = "libodbc.2.dylib" if sys.platform == "darwin" else "libodbc.so.2"
        install = "brew install unixodbc" if sys.platform == "darwin" else "sudo apt-get install -y unixodbc"
        raise ConfigurationError(
            "SQL Server cannot be read on this machine",
            why=f"pyodbc does not load: {library} is missing" if "odbc" in str(error) else str(error),
            hint=f"run: {install}",
        ) from error
    pyodbc.pooling = False
    return pyodbc


def find_packaged_driver() -> Path | None:
    """Return Microsoft's driver for this platform from the package mssql-python-odbc, if it is installed."""
    package = importlib.util.find_spec("mssql_python_odbc")
    if package is None or not package.submodule_search_locations:
        return None
    libraries = Path(next(iter(package.submodule_search_locations))) / "libs"
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        folder, pattern = libraries / "macos" / machine / "lib", "libmsodbcsql*.dylib"
    elif sys.platform == "win32":
        folder, pattern = libraries / "windows" / {"x86_64": "x64"}.get(machine, machine), "msodbcsql*.dll"
    else:
        folder, pattern = libraries / "linux" / _name_linux() / machine / "lib", "libmsodbcsql*.so*"
    return max(folder.glob(pattern), default=None)


def _name_linux() -> str:
    """Return the family of this Linux, as the package's folders name it."""
    if platform.libc_ver()[0] != "glibc":
        return "alpine"
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return "debian_ubuntu"
    names = {system.get("ID", ""), *system.get("ID_LIKE", "").split()}
    if names & {"rhel", "fedora", "centos"}:
        return "rhel"
    return "suse" if names & {"suse", "sles", "opensuse"} else "debian_ubuntu"


def choose_driver(named: str | None, *, installed: Sequence[str], packaged: Path | None) -> Driver:
    """Choose the driver: the one that the URL names, otherwise Microsoft's newest, the packaged one, or FreeTDS.

    Args:
        named: The driver that the URL or the connection string names.
        installed: The drivers that the ODBC driver manager knows.

    Raises:
        ConfigurationError: No driver is installed.
    """
    if named:
        return Driver(name=named, origin="named by the URL")
    versions = [
        (tuple(map(int, match[1].split("."))), name) for name in installed if (match := _MICROSOFT.fullmatch(name))
    ]
    if versions:
        return Driver(name=max(versions)[1], origin="installed on this machine")
    if packaged is not None:
        return Driver(name=str(packaged), origin="from the package mssql-python-odbc")
    freetds = [name for name in installed if "tds" in name.lower()]
    if freetds:
        return Driver(
            name=freetds[0],
            origin="installed on this machine",
            warning="FreeTDS reads SQL Server with fewer guarantees; run: pip install 'syncctl[mssql]'",
        )
    raise ConfigurationError(
        "there is no ODBC driver for SQL Server",
        why=f"installed: {', '.join(installed)}" if installed else "none is installed",
        hint="run: pip install 'syncctl[mssql]'",
    )


def parse_pairs(text: str) -> dict[str, str]:
    """Return the keywords (lower case, one name for each meaning) and values of an ODBC connection string.

    Raises:
        ValueError: The text is not a connection string; the message contains no part of it.
    """
    pairs: dict[str, str] = {}
    position = 0
    while text[position:].strip("; \t\r\n"):
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError(f"keyword {len(pairs) + 1} is not written like Name=value or Name={{value}}")
        keyword = match[1].strip().lower()
        value = match[2].replace("}}", "}") if match[2] is not None else match[3].strip()
        # If a keyword occurs twice, the first value wins, as in the driver manager.
        pairs.setdefault(_ALIASES.get(keyword, keyword), value)
        position = match.end()
    if not pairs:
        raise ValueError("it is empty")
    return pairs


def format_pairs(pairs: Mapping[str, str]) -> str:
    """Return the connection string of keywords and values, with quotes around values that need them."""
    return ";".join(f"{name.upper()}={_quote(name, value)}" for name, value in pairs.items())


def _quote(name: str, value: str) -> str:
    if name == "driver":
        return "{" + value.replace("}", "}}") + "}"
    plain = re.fullmatch(r"[^\[\]{}(),;?*=!@\s]+", value) is not None
    if plain or (name == "server" and not re.search(r"[;{}]", value)):
        return value
    return "{" + value.replace("}", "}}") + "}"


def read_url(url: sa.URL) -> dict[str, str]:
    """Return the keywords and values of an SQLAlchemy URL; a host without a database is a DSN, as in SQLAlchemy."""
    query = {name.lower(): value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    if "odbc_connect" in query:
        return parse_pairs(query.pop("odbc_connect"))
    pairs = {_ALIASES.get(name, name): value for name, value in query.items()}
    if url.host and not url.database and "driver" not in pairs:
        pairs["dsn"] = url.host
    elif url.host:
        pairs["server"] = f"{url.host},{url.port}" if url.port else url.host
    if url.database:
        pairs["database"] = url.database
    if url.username:
        pairs["uid"] = url.username
    if url.password is not None:
        pairs["pwd"] = str(url.password)
    return pairs


def locate(pairs: Mapping[str, str], source: Source, setting: str) -> Address:
    """Return the address of a connection, for error messages."""
    host, port = "", 0
    server = pairs.get("server", "")
    title = f"SQL Server at {server}" if server else f"SQL Server (DSN {pairs.get('dsn', '')})"
    match = _SERVER.fullmatch(server.strip())
    if match is not None:
        host = match[1].strip()
        given = match[3] or pairs.get("port", "")
        port = int(given) if given.isdigit() else (0 if match[2] else DEFAULT_PORT)
        title = f"SQL Server at {host}{match[2] or ''}{f':{port}' if port else ''}"
    return Address(
        title=title,
        setting=setting,
        source=source.name,
        user=pairs.get("uid", ""),
        host=host,
        port=port,
        login_timeout_seconds=source.login_timeout_seconds,
        query_timeout_seconds=source.query_timeout_seconds,
        secrets=frozenset(value for name in ("pwd", "accesstoken") if (value := pairs.get(name))),
    )


def complete(pairs: Mapping[str, str], driver: Driver | None) -> dict[str, str]:
    """Add the driver, the encryption and the application's name, unless the connection string has them."""
    full = dict(pairs)
    if driver is None:
        return {"app": "syncctl", **full}
    full = {**full, "driver": driver.name}
    full.setdefault("app", "syncctl")
    if driver.is_freetds:
        host, comma, port = full.get("server", "").partition(",")
        if comma:
            full |= {"server": host, "port": port.strip()}
        full.setdefault("tds_version", "7.4")
    return full | ask_for_encryption(full, is_freetds=driver.is_freetds)


def ask_for_encryption(pairs: Mapping[str, str], *, is_freetds: bool) -> dict[str, str]:
    """Return the keywords that make a driver encrypt, unless the connection string sets something else."""
    if not is_freetds:
        return {"encrypt": pairs.get("encrypt", "yes")}
    wanted = pairs.get("encryption") or pairs.get("encrypt", "yes")
    word = _FREETDS_WORDS.get(wanted.lower(), "request" if wanted.lower() in _OFF else "require")
    return {"encryption": word}


def read_encryption(pairs: Mapping[str, str], *, is_freetds: bool, is_dsn: bool) -> Encryption:
    """Return the encryption that a connection string asks for.

    Args:
        is_dsn: Whether a DSN names the driver and its settings.
    """
    name = "Encryption" if is_freetds and "encryption" in pairs else "Encrypt"
    given = pairs.get(name.lower(), "")
    is_asked = None if is_dsn and not given else (given or "yes").lower() not in _OFF
    trusted = pairs.get("trustservercertificate", "")
    if is_asked is False or not trusted:
        setting = f"{name}={given}" if given else ""
    else:
        setting = f"TrustServerCertificate={trusted}"
    # FreeTDS checks a certificate only against an authority that freetds.conf names; Strict ignores the trust setting.
    is_checked = not is_freetds and (given.lower() == "strict" or trusted.lower() not in _YES)
    return Encryption(is_asked=is_asked, is_certificate_checked=is_checked, setting=setting)


def open_engine(source: Source, pairs: Mapping[str, str]) -> tuple[sa.Engine, Driver | None]:
    """Return an engine on SQL Server and the driver it uses (None if a DSN names its own).

    Raises:
        ConfigurationError: No driver or no ODBC library is installed.
    """
    pyodbc = load_pyodbc()
    driver = None
    if "dsn" not in pairs or "driver" in pairs:
        driver = choose_driver(pairs.get("driver"), installed=pyodbc.drivers(), packaged=find_packaged_driver())
    text = format_pairs(complete(pairs, driver))

    login_seconds = max(1, math.ceil(source.login_timeout_seconds))

    def connect() -> Any:
        try:
            connection = _run_within(
                2.0 * login_seconds, lambda: pyodbc.connect(text, autocommit=True, timeout=login_seconds)
            )
        except TimeoutError:
            raise pyodbc.OperationalError("HYT00", "[HYT00] Login timeout expired") from None
        connection.timeout = max(1, math.ceil(source.query_timeout_seconds))
        return connection

    freetds = driver is not None and driver.is_freetds
    engine = sa.create_engine(
        "mssql+pyodbc://",
        creator=connect,
        poolclass=sa.pool.QueuePool,
        pool_size=1,
        pool_pre_ping=True,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        use_setinputsizes=not freetds,
    )
    sa.event.listen(engine, "connect", _convert_odd_types)
    return engine, driver


def _run_within(seconds: float, connect: Callable[[], Any]) -> Any:
    """Connect in a thread, which is abandoned if it takes too long.

    pyodbc asks the server for its types before any timeout but the login's can be set: a server that accepts the login
    and then falls silent would block it for ever.

    Raises:
        TimeoutError: Connecting took longer than `seconds`.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((connect(), None))
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            answers.put((None, error))

    threading.Thread(target=run, name="odbc connect", daemon=True).start()
    try:
        connection, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no connection within {seconds:g} s") from None
    if error is not None:
        raise error
    return connection


def _convert_odd_types(connection: Any, _record: object) -> None:
    """Read types that pyodbc cannot read; registered last, because SQLAlchemy's own converter drops a digit."""
    connection.add_output_converter(_DATETIMEOFFSET, read_datetimeoffset)
    connection.add_output_converter(_UDT, lambda raw: raw)


def read_datetimeoffset(raw: bytes | None) -> str | None:
    """Return ISO text with all seven digits from ODBC's SQL_SS_TIMESTAMPOFFSET_STRUCT."""
    if raw is None:
        return None
    year, month, day, hour, minute, second, nanoseconds, hours, minutes = struct.unpack("<6hI2h", raw)
    sign = "-" if hours < 0 or minutes < 0 else "+"
    return (
        f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds // 100:07}"
        f"{sign}{abs(hours):02}:{abs(minutes):02}"
    )
