"""The server of `syncctl metrics --listen`: bounded, shared, and never a hang."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from syncctl.console import metrics_server
from syncctl.console.metrics_server import READERS_AT_MOST, MetricsServer
from syncctl.core.metric_table import Samples


def make_samples() -> Samples:
    samples = Samples()
    samples.add("syncctl_ledger_up", 1)
    return samples


@contextmanager
def serve(read: Callable[[], Samples]) -> Iterator[int]:
    """Serve on a free port; give the port."""
    with MetricsServer("127.0.0.1", 0, read) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str = "/metrics", *, method: str = "GET", accept: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def test_the_metrics_are_served_in_the_format_that_the_reader_accepts() -> None:
    with serve(make_samples) as port:
        status, kind, text = get(port)
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert text.endswith("syncctl_ledger_up 1.0\n")
        _, kind, text = get(port, accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("syncctl_ledger_up 1.0\n# EOF\n")
        assert get(port, method="HEAD") == (200, "text/plain; version=0.0.4; charset=utf-8", "")
        assert get(port, "/")[0] == 404
        assert get(port, method="POST")[0] == 501


def test_scrapes_at_once_read_the_values_once() -> None:
    reads, may_end = [], threading.Event()

    def read() -> Samples:
        reads.append(1)
        may_end.wait(30)
        return make_samples()

    with serve(read) as port, ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(get, port) for _ in range(8)]
        threading.Timer(1.0, may_end.set).start()
        assert {answer.result()[0] for answer in answers} == {200}
        # A reader may have come only once the first ones were answered.
        assert len(reads) <= 2
        assert get(port)[0] == 200
        assert len(reads) >= 2


def test_values_that_do_not_come_in_time_are_a_503_and_later_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "ANSWER_SECONDS", 0.05)
    may_end = threading.Event()

    def read() -> Samples:
        may_end.wait(30)
        return make_samples()

    with serve(read) as port:
        assert get(port)[0] == 503
        may_end.set()
        monkeypatch.setattr(metrics_server, "ANSWER_SECONDS", 30.0)
        assert get(port)[0] == 200


def test_more_readers_than_there_is_room_for_are_turned_away() -> None:
    with serve(make_samples) as port, ExitStack() as stack:
        # They ask nothing, and are let go after some seconds.
        for _ in range(READERS_AT_MOST):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        status = None
        with socket.create_connection(("127.0.0.1", port), timeout=30) as late:
            status = late.recv(100).split()[1]
        assert status == b"503"


def test_a_reader_that_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    with serve(make_samples) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b""
        assert get(port)[0] == 200


def test_a_reader_that_asks_byte_by_byte_is_let_go_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.2)
    with serve(make_samples) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=0.02) as slow:
            for _ in range(100):
                try:
                    slow.sendall(b"G")
                    if slow.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                pytest.fail("it keeps its place")
        assert get(port)[0] == 200


def test_an_error_is_no_page_without_values() -> None:
    def read() -> Samples:
        raise RuntimeError("secret")

    with serve(read) as port:
        status, _, text = get(port)
        assert (status, text) == (500, "internal error; see the log\n")
