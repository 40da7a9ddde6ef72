"""Headers of a stream: templates, checked so that no value can make two headers of one."""

from collections.abc import Iterable, Mapping

from syncctl.core.headers import is_header_value
from syncctl.core.records import Record
from syncctl.core.stream import Decimals
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.request.template import TextTemplate

REPLACEABLE = {"accept", "user-agent"}


class HeaderTemplates:
    """The headers that a stream adds to each call."""

    def __init__(self, templates: Mapping[str, str], decimals: Decimals) -> None:
        self._templates = {
            name: TextTemplate(source, title=f"header {name}", decimals=decimals) for name, source in templates.items()
        }

    def refuse_rivals(self, taken: Iterable[str], *, key: str) -> None:
        """Refuse a header that each call carries already.

        Raises:
            ConfigurationError: two values would contradict each other.
        """
        others = {name.lower() for name in taken} - REPLACEABLE
        for name in self._templates:
            if name.lower() in others:
                why = "the partner's settings set it for all of its streams"
                raise ConfigurationError(f"{key}.{name} is set already", why=why, hint="remove one of the two")

    def render(self, record: Record) -> dict[str, str]:
        """Return the headers of a record. One without text is left out.

        Raises:
            Unsendable: a value that a header has no form for.
        """
        headers = {}
        for name, template in self._templates.items():
            text = template.render(record).strip(" ")
            if not text:
                continue
            if not is_header_value(text):
                raise Unsendable(f"header {name} would hold a line break or a character beyond ASCII")
            headers[name] = text
        return headers
