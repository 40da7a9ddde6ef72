"""SQL Server's column types: as the catalog declares them, as SQLAlchemy knows them, and their kinds."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import types as t
from sqlalchemy.dialects import mssql

from syncctl.sources.catalog.relation import Kind

_SIZED = frozenset({"char", "varchar", "binary", "varbinary"})
_FRACTIONAL = frozenset({"time", "datetime2", "datetimeoffset"})


class Declared(t.UserDefinedType[Any]):
    """A type that SQLAlchemy does not know; only its name is used."""

    cache_ok = True
    name = ""

    def get_col_spec(self, **_: Any) -> str:
        """Return the name."""
        return self.name


class Formless(Declared):
    """A type that JSON cannot represent; its values are never fetched, because drivers fail on them."""


class Json(Declared):
    """The JSON type of SQL Server 2025."""

    name = "json"


class SqlVariant(Formless):
    """A value of any type."""

    name = "sql_variant"


class HierarchyId(Formless):
    """A place in a tree."""

    name = "hierarchyid"


class Geography(Formless):
    """A shape on the globe."""

    name = "geography"


class Geometry(Formless):
    """A shape on a plane."""

    name = "geometry"


class Vector(Formless):
    """An embedding."""

    name = "vector"


# Reflection looks up the class for a type's name here; dialects of SQLAlchemy register their own types in this way.
for declared_type in (Json, SqlVariant, HierarchyId, Geography, Geometry, Vector):
    mssql.base.ischema_names[declared_type.name] = declared_type
mssql.base.ischema_names["sysname"] = mssql.NVARCHAR

KINDS: tuple[tuple[type[t.TypeEngine[Any]], Kind], ...] = (
    (Formless, Kind.FORMLESS),
    (Json, Kind.JSON),
    (mssql.TIMESTAMP, Kind.ROWVERSION),
    (mssql.BIT, Kind.BOOLEAN),
    (t.Boolean, Kind.BOOLEAN),
    (t.Integer, Kind.INTEGER),
    (t.Float, Kind.FLOAT),
    (mssql.MONEY, Kind.DECIMAL),
    (mssql.SMALLMONEY, Kind.DECIMAL),
    (t.Numeric, Kind.DECIMAL),
    (t.DateTime, Kind.TIME),
    (t.Date, Kind.DATE),
    (t.Time, Kind.CLOCK),
    (mssql.UNIQUEIDENTIFIER, Kind.GUID),
    (t.Text, Kind.OTHER),
    (mssql.XML, Kind.OTHER),
    (t.String, Kind.TEXT),
    (mssql.IMAGE, Kind.OTHER),
    (t._Binary, Kind.BINARY),
)


def make_type(declaration: str, collation: str | None = None) -> sa.types.TypeEngine[Any]:
    """Return the type that SQL Server writes as `datetime2(7)`, `decimal(10,2)` or `nvarchar(max)`."""
    name, _, rest = declaration.rstrip(")").partition("(")
    type_class: Any = mssql.base.ischema_names.get(name.strip())
    made: sa.types.TypeEngine[Any]
    sizes = [int(size) for size in rest.split(",") if size.strip().isdigit()]
    if type_class is None:
        made = sa.types.NullType()
    elif issubclass(type_class, sa.String):
        made = type_class(sizes[0] if sizes else None, collation=collation)
    elif issubclass(type_class, mssql.TIME | mssql.DATETIME2 | mssql.DATETIMEOFFSET):
        made = type_class(precision=sizes[0] if sizes else None)
    else:
        made = type_class(*sizes)
    return made


def format_type(name: str, length: int, precision: int, scale: int) -> str:
    """Return a type as people write it (`nvarchar(50)`, `decimal(12,2)`), from the values in `sys.columns`."""
    if name == "timestamp":
        return "rowversion"
    if name in _SIZED:
        return f"{name}({'max' if length < 0 else length})"
    if name in ("nchar", "nvarchar"):
        # The catalog counts bytes.
        return f"{name}({'max' if length < 0 else length // 2})"
    if name in ("decimal", "numeric"):
        return f"{name}({precision},{scale})"
    return f"{name}({scale})" if name in _FRACTIONAL else name
