"""The types of SQL Server that SQLAlchemy does not know, and what kind of column each type makes."""

from typing import Any

from sqlalchemy import types as t
from sqlalchemy.dialects import mssql

from syncctl.sources.tables import Kind


class Declared(t.UserDefinedType[Any]):
    """A type of which the name is all that is known."""

    cache_ok = True
    name = ""

    def get_col_spec(self, **_: Any) -> str:
        """Return the name."""
        return self.name


class Formless(Declared):
    """A type that JSON has no form for; its values are never fetched, because drivers fail over them."""


class Json(Declared):
    """The type of SQL Server 2025."""

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


# Reflection looks here for the class of a type's name, in the way that SQLAlchemy's dialects for such types go.
for each in (Json, SqlVariant, HierarchyId, Geography, Geometry, Vector):
    mssql.base.ischema_names[each.name] = each
mssql.base.ischema_names["sysname"] = mssql.NVARCHAR

KINDS: tuple[tuple[type[t.TypeEngine[Any]], Kind], ...] = (
    (Formless, Kind.FORMLESS),
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
