"""The builder of a stream's requests: make headers and body from a record."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from syncctl.core.records import Record
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.encoding import (
    UTF_8,
    BodyContent,
    FieldMap,
    choose_values,
    encode_body,
    is_form,
    is_json,
    is_markup,
)
from syncctl.partner.endpoint import Endpoints
from syncctl.partner.request_headers import HeaderTemplates

JSON = "application/json"


class RequestBuilder:
    """Builds requests from a stream's settings. The same record gives the same bytes, in every process (invariant 7).

    Raises:
        ConfigurationError: a template or a schema with which no call could be made.
    """

    def __init__(self, endpoints: Endpoints, stream: Stream) -> None:
        self._endpoints = endpoints
        self._decimals = stream.decimals
        self._content_type = stream.content_type or JSON
        self._fields = FieldMap(stream.fields, stream.decimals) if stream.fields else None
        self._parts = _list_mapping(stream)
        key = f"streams.{stream.name}"
        self._body = self._headers = self._schema = None
        try:
            if stream.body is not None:
                # This imports Jinja2, and the schema below jsonschema: streams without them don't wait for the imports.
                from syncctl.partner.request.template import TextTemplate

                self._body = TextTemplate(
                    stream.body,
                    title="body",
                    decimals=stream.decimals,
                    is_json=is_json(self._content_type),
                    is_markup=is_markup(self._content_type),
                    is_form=is_form(self._content_type),
                    remote=stream.remote_names,
                )
                self._content = BodyContent(self._content_type, stream.body)
                self._content.check_own_texts(self._body.texts)
                if self._content.codec != UTF_8 or is_form(self._content_type):
                    # Earlier versions wrote everything as UTF-8, and NULL in a form as None, so their bytes differed.
                    self._parts = [*self._parts, self._content.codec]
            if stream.headers:
                self._headers = HeaderTemplates(stream.headers, stream.decimals, stream.remote_names)
        except ValueError as error:
            raise ConfigurationError(f"{key} has a template that cannot be used", why=str(error)) from None
        if stream.body_schema is not None:
            from syncctl.partner.request.body_schema import BodySchema

            self._schema = BodySchema(Path(stream.body_schema), key=f"{key}.body_schema")
        self._key = key
        self._remote_names = self._find_remote_names()

    @property
    def mapping_hash(self) -> str:
        """A hash of everything that shapes a request for the same record (12 hex digits).

        The schema is left out: it changes no byte, and a record that a changed schema lets through keeps its key. The
        endpoint of updates is left out too, as `hash_remote` covers it: a create whose answer was lost keeps its key
        when that endpoint changes.
        """
        own, delete = self._endpoints.send.mapping_hash, self._endpoints.delete
        if not self._parts and delete is None:
            return own
        parts = [own, "" if delete is None else delete.mapping_hash, *self._parts]
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def hash_remote(self, record: Record) -> str:
        """Return a hash of the remote values that shape a request, and of the endpoint of an update (12 hex digits).

        It is empty for an ordinary call that no remote value shapes.
        """
        endpoint = self._endpoints.choose(record)
        values = [
            [name, type(value).__name__, str(value)]
            for name, value in sorted(record.remote.items())
            if self._remote_names is None or name in self._remote_names or name in endpoint.remote_names
        ]
        if not values and record.step == "send":
            return ""
        step = f"update={endpoint.mapping_hash}" if record.step == "update" else record.step
        return hashlib.sha256(json.dumps([step, values]).encode()).hexdigest()[:12]

    @property
    def codec(self) -> str:
        """The text encoding of a body."""
        return UTF_8 if self._body is None else self._content.codec

    def add_content_type(self, headers: Mapping[str, str], *, auth_headers: Iterable[str]) -> dict[str, str]:
        """Return the headers of every call to the partner, with the stream's content type.

        Args:
            auth_headers: The names of the headers that the partner's auth adds.

        Raises:
            ConfigurationError: the stream sets one of these headers too.
        """
        if self._headers is not None:
            self._headers.refuse_duplicates({*headers, *auth_headers}, key=f"{self._key}.headers")
        if self._content_type == JSON:
            return dict(headers)
        others = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        return {"Content-Type": self._content_type, **others}

    def _find_remote_names(self) -> frozenset[str] | None:
        """Return the names of the partner's values in body and headers; None if they may contain any."""
        names = frozenset() if self._fields is None else self._fields.remote_names
        for template in (self._body, self._headers):
            if template is None:
                continue
            if template.remote_names is None:
                return None
            names |= template.remote_names
        return names

    def make_body(self, record: Record) -> bytes | None:
        """Return the bytes of a record; None for a call without a body.

        Raises:
            Unsendable: the bytes cannot be made, are not the JSON that the content type says, or do not fit the schema.
        """
        delete = self._endpoints.delete
        if delete is not None and record.op == "delete" and delete.method == "DELETE":
            return None
        body = self._encode(record)
        if self._schema is not None and record.op != "delete":
            self._schema.check(body)
        return body

    def _encode(self, record: Record) -> bytes:
        if self._fields is not None:
            return self._fields.encode(record)
        if self._body is None:
            return encode_body(record, self._decimals)
        return self._content.encode(self._body.render(record), choose_values(record))

    def make_headers(self, record: Record, common: Mapping[str, str], *, has_body: bool) -> dict[str, str]:
        """Return the headers of a record: the common ones, and the stream's own.

        Raises:
            Unsendable: a header cannot contain a value.
        """
        own = {} if self._headers is None else self._headers.render(record)
        replaced = {name.lower() for name in own} | (set() if has_body else {"content-type"})
        return {name: value for name, value in common.items() if name.lower() not in replaced} | own


def _list_mapping(stream: Stream) -> list[str]:
    """Return the settings that shape body and headers, as text; empty if the row is sent as it is."""
    fields = [[list(rule.target), rule.column, rule.constant] for rule in stream.fields]
    if not (fields or stream.body or stream.headers or stream.content_type):
        return []
    return [json.dumps([fields, stream.body, list(stream.headers.items()), stream.content_type])]
