"""Values in a path, with a stock nginx in front: it decodes a path and resolves its dots before it finds a location."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from syncctl.core.outcome import Verdict
from syncctl.partner.call import Unsendable
from tests.harness.cases import make_client, make_record
from tests.harness.waiting import eventually

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONFIG = """
daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /orders/ {{ return 200 "orders"; }}
    location / {{ return 403 "elsewhere: $uri"; }}
  }}
}}
"""

TRAVERSING = (
    "../admin/users/7",
    "7/../../admin/users/7",
    "..",
    "./../admin",
    "x/..",
    "..?admin",
    "%2e%2e/admin",
    "../../../etc",
    "7/../..",
)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """A stock nginx; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(place=tmp_path, port=port))
    process = subprocess.Popen([str(NGINX), "-p", str(tmp_path), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _is_open(port), 10.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_key_leaves_its_endpoint(nginx: str) -> None:
    client = make_client(nginx, "DELETE /orders/{id}")
    for key in TRAVERSING:
        with pytest.raises(Unsendable, match="would leave"):
            client.prepare(make_record(key={"id": key}, payload={"id": key}))


def test_this_nginx_would_have_followed_the_dots(nginx: str) -> None:
    with closing(make_client(nginx, "DELETE /orders/{id}")) as client:
        outcome = client.send(replace(client.prepare(make_record()), target="/orders/..%2Fadmin%2Fusers%2F7"))
    assert outcome.status == 403
    assert "/admin/users/7" in outcome.excerpt


@pytest.mark.parametrize("key", ["a/b", "..x", "v1.2", "a b", "ä ö", "...", "a..b/c", "50%", "東京。"])
def test_ordinary_values_arrive(nginx: str, key: str) -> None:
    with closing(make_client(nginx, "DELETE /orders/{id}")) as client:
        outcome = client.send(client.prepare(make_record(key={"id": key}, payload={"id": key})))
    assert (outcome.verdict, outcome.excerpt) == (Verdict.ACCEPTED, "orders")
