"""Files that people write: UTF-8, or an error that says what they are."""

from pathlib import Path

import pytest

from syncctl.core.files import decode_utf8
from syncctl.errors import ConfigurationError
from syncctl.settings import load_settings

STREAM = '[streams.orders]\ntable = "orders"\nstart = "now"\n'
UTF16 = ["utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("content", [b"", b"a", "đơn hàng\n".encode(), "\ufeffA=1".encode()])
def test_utf8_is_read_with_and_without_a_mark(content: bytes) -> None:
    assert decode_utf8(content) == content.decode("utf-8-sig")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"A=1\nB=\xc3\xa4\xfc", "line 2, column 4"),
        (b"\xef\xbb\xbfA=1\nB=\xc3\xa4\xfc", "line 2, column 4"),
        (b"\xef\xbb\xbf\xfc", "line 1, column 1"),
        (b"\xef\xbb\xbf\xc3\xa4\xfc", "line 1, column 2"),
    ],
)
def test_other_bytes_are_refused_with_their_place(content: bytes, place: str) -> None:
    with pytest.raises(ValueError, match="it is not UTF-8 text") as caught:
        decode_utf8(content)
    assert str(caught.value) == f"it is not UTF-8 text ({place}); save it as UTF-8"


@pytest.mark.parametrize("encoding", UTF16)
@pytest.mark.parametrize(("name", "text"), [(".env", "PARTNER_TOKEN=abc\n"), ("syncctl.toml", STREAM)])
def test_a_file_of_settings_in_utf16_is_named(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    assert caught.value.what == f"cannot read {tmp_path / name}"
    assert caught.value.why == "it is UTF-16 text; save it as UTF-8"


@pytest.mark.parametrize("encoding", UTF16)
def test_a_secret_and_a_schema_in_utf16_are_named(tmp_path: Path, encoding: str) -> None:
    for name, text in (("token", "abc"), ("orders.json", "{}")):
        (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "syncctl.toml").write_text(STREAM + 'body_schema = "orders.json"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={"PARTNER_TOKEN_FILE": "token"})
    token, schema = caught.value.why.splitlines()
    assert "PARTNER_TOKEN_FILE names cannot be read: it is UTF-16 text; save it as UTF-8" in token
    assert "orders.json cannot be used: it is UTF-16 text; save it as UTF-8" in schema


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be"])
def test_utf32_is_named(encoding: str) -> None:
    with pytest.raises(ValueError, match="it is UTF-32 text"):
        decode_utf8("A=1".encode(encoding))
