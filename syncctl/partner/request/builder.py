"""The shape of a stream's calls: from a record to method, target, headers and bytes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from syncctl.core.content_types import is_json, is_markup
from syncctl.core.records import Record
from syncctl.core.stream import Partner, Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import encode_body
from syncctl.partner.endpoint import Endpoint
from syncctl.partner.request.fields import FieldMap
from syncctl.partner.request.json_text import check_json

JSON = "application/json"


class RequestBuilder:
    """What a stream's settings make of a record. The same record gives the same bytes, in every process.

    Raises:
        ConfigurationError: an endpoint, a template or a schema that no call could be made with.
    """

    def __init__(self, partner: Partner, stream: Stream) -> None:
        self.endpoint = Endpoint(partner, stream)
        self._decimals = stream.decimals
        self._content_type = stream.content_type or JSON
        self._is_json = is_json(self._content_type)
        self._fields = FieldMap(stream.fields, stream.decimals) if stream.fields else None
        self._parts = _name_parts(stream)
        key = f"streams.{stream.name}"
        self._body = self._headers = self._schema = self._delete = None
        if stream.delete_method is not None:
            self._delete = Endpoint(partner, replace(stream, method=stream.delete_method, path=stream.delete_path))
        try:
            # Each of these brings a library of its own, which a stream without it does not wait for.
            if stream.body is not None:
                from syncctl.partner.request.template import TextTemplate

                markup = is_markup(self._content_type)
                self._body = TextTemplate(
                    stream.body, title="body", decimals=stream.decimals, is_json=self._is_json, is_markup=markup
                )
            if stream.headers:
                from syncctl.partner.request.headers import HeaderTemplates

                self._headers = HeaderTemplates(stream.headers, stream.decimals)
        except ValueError as error:
            raise ConfigurationError(f"{key} has a template that cannot be used", why=str(error)) from None
        if stream.body_schema is not None:
            from syncctl.partner.request.schema import BodySchema

            self._schema = BodySchema(Path(stream.body_schema), key=f"{key}.body_schema")
        self._key = key

    @property
    def mapping_hash(self) -> str:
        """Name everything that shapes a call for the same record (12 hex digits).

        The schema is left out: it changes no byte, and a record that it lets through now keeps its key.
        """
        own = self.endpoint.mapping_hash
        if not self._parts and self._delete is None:
            return own
        parts = [own, "" if self._delete is None else self._delete.mapping_hash, *self._parts]
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def adopt_headers(self, headers: Mapping[str, str], *, taken: Iterable[str]) -> dict[str, str]:
        """Return what every call of the partner carries, with the stream's content type.

        Args:
            taken: The names of the headers that the partner's auth adds.

        Raises:
            ConfigurationError: the stream sets one of them too.
        """
        if self._headers is not None:
            self._headers.refuse_rivals({*headers, *taken}, key=f"{self._key}.headers")
        if self._content_type == JSON:
            return dict(headers)
        kept = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        return {"Content-Type": self._content_type, **kept}

    def choose_endpoint(self, record: Record) -> Endpoint:
        """Return where a record goes: a row that is gone may have an endpoint of its own."""
        return self._delete if self._delete is not None and record.op == "delete" else self.endpoint

    def make_body(self, record: Record) -> bytes | None:
        """Return the bytes of a record; None for a call without a body.

        Raises:
            Unsendable: they cannot be made, are not JSON where JSON is said, or do not fit the schema.
        """
        if self._delete is not None and record.op == "delete" and self._delete.method == "DELETE":
            return None
        body = self._render(record)
        if self._schema is not None and record.op != "delete":
            self._schema.check(body)
        return body

    def _render(self, record: Record) -> bytes:
        if self._fields is not None:
            return self._fields.encode(record)
        if self._body is None:
            return encode_body(record, self._decimals)
        text = self._body.render(record)
        if self._is_json:
            check_json(text)
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Unsendable("the body holds half a surrogate pair, which UTF-8 has no form for") from error

    def make_headers(self, record: Record, common: Mapping[str, str], *, has_body: bool) -> dict[str, str]:
        """Return the headers of a record: those of every call, and the stream's own.

        Raises:
            Unsendable: a value that a header has no form for.
        """
        own = {} if self._headers is None else self._headers.render(record)
        gone = {name.lower() for name in own} | (set() if has_body else {"content-type"})
        return {name: value for name, value in common.items() if name.lower() not in gone} | own


def _name_parts(stream: Stream) -> list[str]:
    """Return what shapes the bytes and the headers, as texts; empty where the row goes as it is."""
    fields = [[list(rule.target), rule.column, rule.constant] for rule in stream.fields]
    if not (fields or stream.body or stream.headers or stream.content_type):
        return []
    return [json.dumps([fields, stream.body, list(stream.headers.items()), stream.content_type])]
