"""The targets of calls: the partner's base URL, and the stream's paths with their placeholders."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from urllib.parse import quote

from syncctl.core.json_text import JsonText
from syncctl.core.records import Record
from syncctl.core.remote_values import REMOTE, find_remote_names
from syncctl.core.rows import Value
from syncctl.core.stream import Partner, Stream
from syncctl.partner.address import (
    check_path,
    count_empty_segments,
    find_dot_segment,
    parse_base_url,
    parse_endpoint,
    parse_lookup_endpoint,
    read_setting,
)
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import ENCODING_VERSION

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
VALUE_AT_MOST = 16_384
"""The longest value in an address, in characters; few servers accept even half of that."""
_KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._?"


class Endpoint:
    """The method and the address of calls of a stream.

    Args:
        setting: The key of the setting, for errors.
        parse: Reads a method and a path.

    Raises:
        ConfigurationError: a URL, method or path with which no call could be made.
    """

    def __init__(
        self,
        partner: Partner,
        stream: Stream,
        *,
        setting: str = "endpoint",
        parse: Callable[[str], tuple[str, str]] = parse_endpoint,
    ) -> None:
        self.base = read_setting(f"partners.{partner.name}.url", partner.url, parse_base_url)
        self._decimals = stream.decimals
        key, self.template = f"streams.{stream.name}.{setting}", f"/{stream.path.lstrip('/')}"
        self.method, _ = read_setting(key, f"{stream.method} /", parse)
        read_setting(key, self.template, check_path)
        self._base_path = quote(self.base.path.rstrip("/"), safe=_KEPT_IN_PATH)
        # Parts at odd positions are placeholders, parts at even ones fixed text.
        parts = _PLACEHOLDER.split(self.template)
        self._plain = parts[::2]
        self._fixed = [quote(part, safe=_KEPT_IN_PATH) for part in parts[::2]]
        self.columns = tuple(parts[1::2])
        #: The names of the partner's values that the path needs.
        self.remote_names = find_remote_names(self.template)

    @property
    def root(self) -> str:
        """The target of a call to the base URL itself."""
        return self._base_path or "/"

    @property
    def names_row(self) -> bool:
        """Whether each row has its own address."""
        return bool(self.columns)

    @property
    def names_row_in_path(self) -> bool:
        """Whether the path ends in a row's own segment, as in `/orders/{id}`.

        `/customers/{customer_id}/orders` is the path of a list.
        """
        return "{" in self.template.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def mapping_hash(self) -> str:
        """A hash of everything that shapes a call for the same record (12 hex digits); contains no secret."""
        parts = [str(ENCODING_VERSION), self.method, self._base_path, self.template]
        if self._decimals != "number":
            parts.append(f"decimals={self._decimals}")
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def fill(self, record: Record) -> str:
        """Return the target for a record: the path under the base URL, with each value URL-encoded as a whole.

        Raises:
            Unsendable: a placeholder has no value, or a value would change the structure of the path.
        """
        if not self.columns:
            return self._base_path + self._fixed[0]
        texts = [_write_value(column, _find_value(column, record)) for column in self.columns]
        self._check_segments(texts)
        pieces = [self._fixed[0]]
        for column, text, fixed in zip(self.columns, texts, self._fixed[1:], strict=True):
            pieces += (_quote_text(column, text), fixed)
        return self._base_path + "".join(pieces)

    def _check_segments(self, texts: Sequence[str]) -> None:
        """Refuse values that would lead the call to another path.

        Servers resolve dots and merge slashes, even encoded ones. Values in the query are not restricted.
        """
        path = filled = bare = self._plain[0]
        for column, text, plain in zip(self.columns, texts, self._plain[1:], strict=True):
            if "?" in path:
                break
            self._refuse(f"{_name(column)} holds", dots=find_dot_segment(text), empty=count_empty_segments(text))
            path += text.replace("?", "/").replace("#", "/") + plain
            filled += text + plain
            bare += "x" + plain
        # Several columns together may form a segment that no single one contains.
        empty = count_empty_segments(filled) - count_empty_segments(bare)
        self._refuse("its columns make", dots=find_dot_segment(path.partition("?")[0]), empty=empty)

    def _refuse(self, who: str, *, dots: str | None, empty: int) -> None:
        if dots is not None:
            what = "a segment . or .. (however it is written), which servers resolve"
        elif empty > 0:
            what = "an empty segment (a slash at its beginning or end, or two in a row), which servers drop"
        else:
            return
        raise Unsendable(f"the call would leave {self.template}: {who} {what}")


class Endpoints:
    """The endpoints of a stream: a general one, and separate ones that deletes, updates and lookups may have.

    Raises:
        ConfigurationError: a URL, method or path with which no call could be made.
    """

    def __init__(self, partner: Partner, stream: Stream) -> None:
        self.send = Endpoint(partner, stream)
        self.delete = self.update = self.lookup = None
        if stream.delete_method is not None:
            self.delete = Endpoint(partner, replace(stream, method=stream.delete_method, path=stream.delete_path))
        if stream.update_method is not None:
            own = replace(stream, method=stream.update_method, path=stream.update_path)
            self.update = Endpoint(partner, own, setting="update_endpoint")
        if stream.lookup is not None:
            own = replace(stream, method="GET", path=stream.lookup.path)
            self.lookup = Endpoint(partner, own, setting="lookup.endpoint", parse=parse_lookup_endpoint)

    def choose(self, record: Record) -> Endpoint:
        """Return the endpoint of a record's next call."""
        if record.step == "look_up" and self.lookup is not None:
            return self.lookup
        if record.step == "update" and self.update is not None:
            return self.update
        return self.delete if self.delete is not None and record.op == "delete" else self.send


def find_placeholders(path: str) -> tuple[str, ...]:
    """Return the columns that a path names."""
    return tuple(_PLACEHOLDER.findall(path))


def add_columns(path: str, columns: Sequence[str]) -> str | None:
    """Return a path that also names these columns: in its query if that names columns already, otherwise as segments.

    Returns:
        None if a placeholder cannot contain the name of one of the columns.
    """
    if set("{}/\r\n") & set("".join(columns)):
        return None
    before, mark, query = path.partition("?")
    if "{" in query:
        return path + "".join(f"&{quote(column, safe='')}={{{column}}}" for column in columns)
    return "/".join([before.rstrip("/"), *(f"{{{column}}}" for column in columns)]) + mark + query


def _find_value(column: str, record: Record) -> Value:
    if column.startswith(REMOTE):
        value = record.remote.get(column[len(REMOTE) :])
        if value is None:
            raise Unsendable(f"the path needs {column}, which no answer has brought for this row yet")
        return value
    if record.payload is not None and column in record.payload:
        value = record.payload[column]
    elif column in record.key:
        value = record.key[column]
    else:
        raise Unsendable(f"the path needs column {column}, which the row does not have")
    if value is None:
        raise Unsendable(f"the path needs column {column}, which is NULL in this row")
    return value


def _name(column: str) -> str:
    return column if column.startswith(REMOTE) else f"column {column}"


def _write_value(column: str, value: Value) -> str:
    if isinstance(value, JsonText | list | dict):
        what = "a JSON document" if isinstance(value, JsonText) else "rows of another table"
        raise Unsendable(f"the path needs column {column}, which holds {what}, and a path takes a single value")
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, Decimal):
        text = format(value, "f")
    else:
        text = str(value)
    if not text:
        raise Unsendable(f"the path needs {_name(column)}, which is empty in this row")
    if len(text) > VALUE_AT_MOST:
        what = f"which has {len(text):,} characters in this row; an address takes at most {VALUE_AT_MOST:,} for a value"
        raise Unsendable(f"the path needs {_name(column)}, {what}")
    return text


def _quote_text(column: str, text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        reason = f"{_name(column)} holds half a surrogate pair, which a URL cannot represent"
        raise Unsendable(reason) from error
