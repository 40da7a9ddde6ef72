"""Which right a login lacks, and the statement that gives it."""

import re

from sqlalchemy.dialects import mssql

_QUOTER = mssql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
_ON_OBJECT = re.compile(
    r"The (?P<right>[A-Z][A-Z ]*) permission was denied on"
    r"(?: the column '(?P<column>.*?)' of)? the object '(?P<object>.*?)'"
    r"(?:, database '(?P<database>.*?)'(?:, schema '(?P<schema>.*?)')?)?\W*$"
)
_ON_SERVER = re.compile(r"(?P<right>[A-Z][A-Z ]*) permission was denied on object 'server', database 'master'")
_IN_DATABASE = re.compile(r"(?P<right>[A-Z][A-Z ]*) permission(?: was)? denied in database '(?P<database>.*?)'")
_NO_USER = re.compile(r'The server principal "(?P<login>.*?)" is not able to access the database "(?P<database>.*?)"')


def quote_name(*parts: str) -> str:
    """Return a name as T-SQL takes it: `dbo.orders`, `sales.[order lines]`."""
    return ".".join(str(_QUOTER.quote(part)) for part in parts if part)


def quote_user(name: str) -> str:
    """Return the name of a user or a login in brackets."""
    return "[" + (name or "login").replace("]", "]]") + "]"


def grant(right: str, user: str, *, on: str = "", database: str = "") -> str:
    """Return the GRANT statement of a right, and the database to run it in."""
    where = f"in {database}: " if database else ""
    return f"{where}GRANT {right}{f' ON {on}' if on else ''} TO {quote_user(user)}"


def advise_grant(reason: str, user: str) -> str:
    """Return what an administrator runs to give what a message of SQL Server says is missing.

    Messages are in the language of the login; of one that is not English, only the general way is told.

    Args:
        reason: The message of error 229, 230, 262, 297, 300 or 916.
        user: The login.
    """
    statement = find_statement(reason, user)
    return f"let an administrator run {statement}" if statement else _advise_generally(user)


def find_statement(reason: str, user: str) -> str:
    """Return the statement that gives the right which a message names; empty where it names none."""
    if found := _ON_OBJECT.search(reason):
        on = quote_name(found["schema"] or "", found["object"])
        column = f" ({quote_name(found['column'])})" if found["column"] else ""
        return grant(found["right"], user, on=on + column, database=found["database"] or "")
    if found := _ON_SERVER.search(reason):
        return grant(found["right"], user, database="master")
    if found := _IN_DATABASE.search(reason):
        return grant(found["right"], user, database=found["database"])
    if found := _NO_USER.search(reason):
        login = quote_user(found["login"])
        return f"in {found['database']}: CREATE USER {login} FOR LOGIN {login}, and let it read the table"
    return ""


def _advise_generally(user: str) -> str:
    return f"let the login{f' {user}' if user else ''} read it: GRANT SELECT ON ... TO {quote_user(user)}"
