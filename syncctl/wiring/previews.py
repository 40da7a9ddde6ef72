"""What records and rows would be sent as: what operators look at before anything is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syncctl.wiring.operators import OperatorServices

if TYPE_CHECKING:
    from syncctl.core.stream import Stream
    from syncctl.pipeline.preview import Preview, Sketch


class PreviewServices(OperatorServices):
    """Shows requests; sends and writes nothing."""

    def preview_poll(self, name: str, *, limit: int, known: bool = False) -> "list[Preview]":
        """Show what the next poll of a stream would send; see `pipeline.preview.preview_rows`."""
        from syncctl.pipeline.preview import preview_rows
        from syncctl.sources import open_reader

        stream = self.settings.stream(name)
        source = self.settings.source(stream.source)
        with self._sketch(stream) as sketch:
            return preview_rows(
                ledger=self.ledger,
                stream=stream,
                open_reader=lambda each: open_reader(source, each),
                sketch=sketch,
                limit=limit,
                known=known,
            )

    def preview_records(self, id_or_stream: str, key: str | None = None) -> "list[Preview]":
        """Show what records are sent as, chosen as by `show`; see `pipeline.preview.preview_record`.

        Raises:
            TroubleFound: There is none.
            UsageError: Their stream is not configured any more.
        """
        from syncctl.pipeline.preview import preview_record

        found = []
        for document in self.show(id_or_stream, key):
            with self._sketch(self.settings.stream(document["stream"])) as sketch:
                found.append(preview_record(document, sketch=sketch))
        return found

    @contextmanager
    def _sketch(self, stream: "Stream") -> "Iterator[Sketch]":
        """Yield what shows a stream's requests."""
        from dataclasses import replace

        from syncctl.partner.client import PartnerClient
        from syncctl.pipeline.preview import Sketch

        client, variable = self.partner_client(stream), self.settings.find_secret_name(stream.partner)
        if stream.body_schema is None:
            yield Sketch(client=client, variable=variable)
            return
        partner = self.settings.partner(stream.partner)
        unchecked = PartnerClient(partner, replace(stream, body_schema=None), max_connections=1)
        try:
            yield Sketch(client=client, variable=variable, unchecked=unchecked)
        finally:
            unchecked.close()
