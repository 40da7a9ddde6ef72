"""Show previewed requests, as HTTP and `curl` for a person or as JSON objects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from syncctl.console import out, to_line
from syncctl.core.safe_text import make_safe_line
from syncctl.errors import ExitCode

if TYPE_CHECKING:
    from syncctl.pipeline.inspection.preview import Preview


def show_requests(previews: "Sequence[Preview]", *, as_json: bool) -> ExitCode:
    """Write requests to stdout; the exit code says whether all of them can be built."""
    if as_json:
        out.print_json({"requests": [_to_public(preview) for preview in previews]})
    else:
        for number, preview in enumerate(previews):
            if number:
                out.show("")
            _show(preview)
    return ExitCode.TROUBLE if any(preview.request.error for preview in previews) else ExitCode.DONE


def _to_public(preview: "Preview") -> dict[str, Any]:
    request = preview.request
    return {
        "stream": preview.stream,
        "id": preview.id,
        "key": preview.key,
        "op": preview.op,
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "body": request.body,
        "curl": request.curl,
        "error": request.error,
        "mapping_changed": preview.mapping_changed,
    }


def _show(preview: "Preview") -> None:
    request = preview.request
    key = ",".join(
        f"{name}={value if isinstance(value, str) else to_line(value)}" for name, value in preview.key.items()
    )
    deleted = " (deleted)" if preview.op == "delete" else ""
    # Remarks begin with #, so that a shell into which they are pasted takes them as comments.
    out.show(make_safe_line(f"# {preview.stream} {key}{deleted}"))
    if preview.mapping_changed:
        out.show("# the mapping has changed since: this request was never sent, but a replay would send it")
    if request.error:
        out.show(make_safe_line(f"# cannot be sent: {request.error}"))
        if request.body:
            out.show("")
            out.show(request.body)
        return
    out.show(f"{request.method} {request.url}")
    for name, value in (request.headers or {}).items():
        out.show(f"{name}: {value}")
    if request.body:
        out.show("")
        out.show(request.body)
    out.show("")
    out.show(request.curl or "")
