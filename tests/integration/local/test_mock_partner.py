"""The mock partner: its answers, its account, its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from syncctl.local.mock_partner import MockPartner, PartnerConfig, main, make_config, parse_arguments

pytestmark = pytest.mark.timeout(60)


def post(partner: MockPartner, body: str, key: str = "k-1", attempt: int = 1, **headers: str) -> requests.Response:
    """Send one call as a partner's user would."""
    ours = {"Idempotency-Key": key, "Syncctl-Attempt": str(attempt)}
    return requests.post(f"{partner.url}/orders", data=body, headers={**ours, **headers}, timeout=10)


def test_a_key_is_applied_once(partner: MockPartner) -> None:
    first, second = post(partner, '{"id":1,"v":1}'), post(partner, '{"id":1,"v":1}', attempt=2)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["Idempotent-Replayed"] == "true"
    stats = partner.stats()
    assert (stats["calls"], stats["distinct_keys"], stats["applied"], stats["repeated"]) == (2, 1, 1, 1)


def test_the_latest_version_of_a_row_is_kept(partner: MockPartner) -> None:
    assert post(partner, '{"id":1,"v":1}', "k-1").status_code == 201
    assert post(partner, '{"id":1,"v":2.50}', "k-2").status_code == 200
    assert post(partner, '{"id":1,"v":1}', "k-1").status_code == 201
    assert partner.rows() == {"1": b'{"id":1,"v":2.50}'}


def test_other_bytes_under_a_key_are_a_violation(partner: MockPartner) -> None:
    post(partner, '{"id":1,"v":1}')
    answer = post(partner, '{"id":1,"v":2}')
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["message"]
    stats = partner.stats()
    assert (stats["violation"], stats["repeated"], stats["distinct_keys"]) == (1, 0, 1)
    assert partner.rows() == {"1": b'{"id":1,"v":1}'}


def test_other_bytes_are_a_violation_even_if_the_first_were_refused() -> None:
    with MockPartner(PartnerConfig(error_rate=1.0)) as partner:
        assert post(partner, '{"id":1,"v":1}').status_code == 500
        partner.fix()
        assert post(partner, '{"id":1,"v":2}', attempt=2).status_code == 422
        assert partner.stats()["violation"] == 1


def test_without_an_id_the_path_is_the_row(partner: MockPartner) -> None:
    url = f"{partner.url}/orders/a%2Fb"
    requests.put(url, data="not json", headers={"Idempotency-Key": "k-1"}, timeout=10)
    assert partner.rows() == {"/orders/a%2Fb": b"not json"}


def test_rows_without_an_id_do_not_share_one_fate() -> None:
    with MockPartner(PartnerConfig(reject_rate=0.3)) as partner:
        bodies = {f"stock-{n}": f'{{"sku":"A{n}"}}' for n in range(40)}
        statuses = {key: post(partner, body, key).status_code for key, body in bodies.items()}
        assert set(statuses.values()) == {201, 422}
        repeated = {key: post(partner, body, key, attempt=2).status_code for key, body in bodies.items()}
        assert repeated == statuses
        partner.fix()
        assert {post(partner, body, key, attempt=3).status_code for key, body in bodies.items()} == {201}
        assert len(partner.rows()) == 40


def test_the_fields_that_identify_a_row_can_be_named() -> None:
    chosen = make_config(parse_arguments(["--key", "sku", "--key", "depot"]))
    with MockPartner(chosen) as partner:
        post(partner, '{"sku":"A","depot":1,"n":1}', "k-1")
        post(partner, '{"sku":"A","depot":1,"n":2}', "k-2")
        post(partner, '{"sku":"A","depot":2}', "k-3")
        post(partner, '{"sku":"A"}', "k-4")
        assert set(partner.rows()) == {"A,1", "A,2", "k-4"}


@pytest.mark.parametrize(
    ("rate", "status", "fate"),
    [("too_many_rate", 429, "too_many"), ("error_rate", 500, "error"), ("reject_rate", 422, "rejected")],
)
def test_a_failure_is_answered_counted_and_ends_when_fixed(rate: str, status: int, fate: str) -> None:
    with MockPartner(PartnerConfig(retry_after_seconds=7, **{rate: 1.0})) as partner:  # type: ignore[arg-type]
        answer = post(partner, '{"id":1}')
        assert answer.status_code == status
        assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
        assert (partner.stats()[fate], partner.stats()["distinct_keys"]) == (1, 0)
        partner.fix()
        assert post(partner, '{"id":1}', attempt=2).status_code == 201
        assert partner.stats()["fixed"] is True


@pytest.mark.parametrize(("rate", "applied"), [("drop_before_rate", 0), ("drop_after_rate", 1)])
def test_a_cut_connection_comes_before_or_after_applying(rate: str, applied: int) -> None:
    with MockPartner(PartnerConfig(**{rate: 1.0})) as partner:  # type: ignore[arg-type]
        with pytest.raises(requests.ConnectionError):
            post(partner, '{"id":1}')
        assert partner.stats()["distinct_keys"] == applied
        assert partner.calls()[0].status is None
        partner.fix()
        assert post(partner, '{"id":1}', attempt=2).status_code == 201
        assert partner.stats()["repeated"] == applied


def test_the_same_seed_gives_the_same_failures() -> None:
    def statuses(seed: int) -> list[int]:
        config = PartnerConfig(seed=seed, too_many_rate=0.2, error_rate=0.2, reject_rate=0.2)
        with MockPartner(config) as partner:
            return [post(partner, f'{{"id":{n}}}', f"k-{n}").status_code for n in range(60)]

    first = statuses(1)
    assert first == statuses(1)
    assert first != statuses(2)
    assert set(first) == {201, 422, 429, 500}


def test_a_rejected_row_stays_rejected_until_fixed() -> None:
    with MockPartner(PartnerConfig(reject_rate=0.3)) as partner:
        rounds = [[post(partner, f'{{"id":{n}}}', f"k-{n}", a).status_code for n in range(40)] for a in (1, 2, 3)]
    rejected = [{n for n, status in enumerate(each) if status == 422} for each in rounds]
    assert rejected[0] == rejected[1] == rejected[2]
    assert 0 < len(rejected[0]) < 40


def test_a_call_without_the_token_is_refused() -> None:
    with MockPartner(PartnerConfig(token="t-1")) as partner:
        assert post(partner, "{}").status_code == 401
        assert post(partner, "{}", Authorization="Bearer t-2").status_code == 401
        assert post(partner, "{}", Authorization="Bearer t-1").status_code == 201
        assert partner.stats()["unauthorized"] == 2


def test_a_call_without_a_key_is_refused_unless_keys_are_optional() -> None:
    with MockPartner() as strict, MockPartner(PartnerConfig(require_key=False)) as easy:
        answers = [requests.post(each.url, data='{"id":1}', timeout=10).status_code for each in (strict, easy, easy)]
        assert answers == [400, 201, 200]
        assert easy.stats()["applied"] == 2


def test_the_account_can_be_asked_for_over_http() -> None:
    with MockPartner(PartnerConfig(reject_rate=1.0)) as partner:
        post(partner, '{"id":1}', "k-1")
        assert requests.post(f"{partner.url}/_partner/fix", timeout=10).json()["fixed"] is True
        post(partner, '{"id":1,"total":1.10}', "k-2", attempt=3)
        stats = requests.get(f"{partner.url}/_partner/stats", timeout=10).json()
        rows = requests.get(f"{partner.url}/_partner/rows", timeout=10)
        (first, second) = requests.get(f"{partner.url}/_partner/log", timeout=10).json()["calls"]
        assert requests.get(f"{partner.url}/_partner/nothing", timeout=10).status_code == 404
    assert (stats["calls"], stats["rejected"], stats["applied"]) == (2, 1, 1)
    assert rows.text == '{"1":{"id":1,"total":1.10}}'
    assert (first["key"], first["status"], first["fate"]) == ("k-1", 422, "rejected")
    assert (second["key"], second["attempt"], second["method"], second["path"]) == ("k-2", 3, "POST", "/orders")
    assert second["at"].endswith("Z")


def test_requests_on_one_connection_are_answered_in_order() -> None:
    def request(number: int) -> bytes:
        body = b'{"id":%d}' % number
        return b"POST / HTTP/1.1\r\nIdempotency-Key: k-%d\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)

    with MockPartner(PartnerConfig(latency_seconds=0.01)) as partner:
        port = int(partner.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request(1) + request(2) + request(1)[:20])
            sock.sendall(request(1)[20:])
            received = b""
            while received.count(b"HTTP/1.1 201") < 3:
                received += sock.recv(65536)
        assert [call.key for call in partner.calls()] == ["k-1", "k-2", "k-1"]
    assert received.count(b"Idempotent-Replayed") == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_a_bad_request_is_refused_and_the_connection_closed(
    partner: MockPartner, request_bytes: bytes, status: int
) -> None:
    port = int(partner.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request_bytes)
        received = b""
        while piece := sock.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert partner.calls() == []


def test_stop_cuts_open_connections_and_may_be_repeated() -> None:
    partner = MockPartner(PartnerConfig(latency_seconds=60))
    with requests.Session() as session:
        failed = threading.Event()

        def call() -> None:
            try:
                session.post(partner.url, data="{}", headers={"Idempotency-Key": "k"}, timeout=50)
            except requests.ConnectionError:
                failed.set()

        thread = threading.Thread(target=call)
        thread.start()
        while not partner.calls():
            thread.join(0.01)
        partner.stop()
        partner.stop()
        thread.join()
    assert failed.is_set()


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Run the partner as a program; yield it and its URL."""
    command = [sys.executable, "-m", "syncctl.local.mock_partner", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as program:
        assert program.stdout is not None
        try:
            first = json.loads(program.stdout.readline())
            assert first["pid"] == program.pid
            yield program, first["url"]
        finally:
            program.kill()


def test_the_program_serves_and_ends_with_its_input() -> None:
    arguments = ("--reject", "1", "--latency", "1ms", "--allow-keyless", "--end-with-parent")
    with running(*arguments, env={**os.environ, "PARTNER_TOKEN": "t-1"}) as (program, url):
        assert requests.post(url, data="{}", timeout=10).status_code == 401
        headers = {"Authorization": "Bearer t-1"}
        assert requests.post(url, data="{}", headers=headers, timeout=10).status_code == 422
        assert program.stdin is not None
        program.stdin.close()
        assert program.wait(30) == 0


def test_the_program_ends_on_sigterm() -> None:
    with running() as (program, _):
        program.send_signal(signal.SIGTERM)
        assert program.wait(30) == 0


def leave_behind(log: Path, *arguments: str) -> tuple[int, str]:
    """Run the partner as the child of a program that ends at once; return its process id and its URL."""
    code = (
        "import os, subprocess, sys\n"
        "log = open(sys.argv[1], 'w')\n"
        "child = subprocess.Popen([sys.executable, '-m', 'syncctl.local.mock_partner', *sys.argv[2:]],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)\n"
        "sys.stdout.write(child.stdout.readline().decode()); sys.stdout.flush(); os._exit(0)"
    )
    command = [sys.executable, "-c", code, str(log), *arguments]
    parent = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
    first = json.loads(parent.stdout)
    return first["pid"], first["url"]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return _is_zombie(pid)


def test_the_program_ends_with_its_parent_where_that_is_asked_for_and_says_so(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    pid, _ = leave_behind(tmp_path / "log", "--end-with-parent")
    eventually(lambda: is_gone(pid))
    assert (tmp_path / "log").read_text() == "stopped: the parent process has ended (--end-with-parent)\n"


def test_the_program_outlives_the_shell_that_started_it(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    pid, url = leave_behind(tmp_path / "log")
    try:
        until = time.monotonic() + 1.5
        eventually(lambda: requests.options(url, timeout=10).status_code == 204 and time.monotonic() > until)
    finally:
        os.kill(pid, signal.SIGKILL)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--error", "5", "'5' is not a share: use a number from 0 to 1"),
        ("--error", "often", "'often' is not a share"),
        ("--latency", "5x", "'5x' is not a duration; write a number and a unit: 500ms, 5s"),
        ("--port", "80990", "'80990' is not a port"),
    ],
)
def test_a_wrong_flag_value_is_refused_in_words(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag, value])
    assert ended.value.code == 2
    assert f"argument {flag}: {message}" in capsys.readouterr().err


def test_a_taken_port_is_an_error_of_one_line(partner: MockPartner) -> None:
    port = partner.url.rpartition(":")[2]
    command = [sys.executable, "-m", "syncctl.local.mock_partner", "--port", port]
    program = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (program.returncode, program.stdout) == (69, "")
    assert program.stderr == f"error: port {port} is already in use; --port 0 picks a free one\n"


def test_its_help_says_which_token_it_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "PARTNER_TOKEN" in capsys.readouterr().out


def test_the_former_module_name_still_runs_with_a_deprecation_warning() -> None:
    command = [sys.executable, "-m", "syncctl.local.partner", "--help"]
    program = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert "python -m syncctl.local.mock_partner" in program.stdout
    assert program.stderr.startswith("warning: syncctl.local.partner is deprecated")


@pytest.fixture
def id_partner() -> Iterator[MockPartner]:
    """A mock partner with ids of its own."""
    with MockPartner(PartnerConfig(own_ids=True)) as partner:
        yield partner


def call(partner: MockPartner, method: str, path: str, body: str = "", key: str = "k-2") -> requests.Response:
    """Make one call to a partner with ids of its own."""
    headers = {"Idempotency-Key": key} if body else {}
    return requests.request(method, f"{partner.url}{path}", data=body, headers=headers, timeout=10)


def test_a_partner_with_ids_of_its_own_creates_as_often_as_it_is_called(id_partner: MockPartner) -> None:
    first, second = post(id_partner, '{"id":1}'), post(id_partner, '{"id":1}', attempt=2)
    assert [answer.json() for answer in (first, second)] == [{"data": {"id": "P-000001"}}, {"data": {"id": "P-000002"}}]
    assert (first.status_code, first.headers["Location"]) == (201, "/orders/P-000001")
    assert call(id_partner, "GET", "/orders?ref=1").json() == {"items": [{"id": "P-000001"}, {"id": "P-000002"}]}
    assert call(id_partner, "GET", "/orders?ref=2").json() == {"items": []}
    stats = id_partner.stats()
    assert (stats["created"], stats["rows"], stats["distinct_keys"], stats["found"], stats["not_found"]) == (
        2,
        2,
        1,
        1,
        1,
    )


def test_an_object_is_changed_and_deleted_under_its_id(id_partner: MockPartner) -> None:
    post(id_partner, '{"id":1,"v":1}')
    for _ in range(2):
        assert call(id_partner, "PUT", "/orders/P-000001", '{"id":1,"v":2}').status_code == 200
    assert id_partner.rows() == {"P-000001": b'{"id":1,"v":2}'}
    assert [received.fate for received in id_partner.calls()] == ["applied", "applied", "repeated"]
    assert call(id_partner, "DELETE", "/orders/P-000001").status_code == 200
    for method in ("GET", "PUT", "DELETE"):
        body = '{"id":1}' if method == "PUT" else ""
        assert call(id_partner, method, "/orders/P-000001", body).status_code == 404
    assert call(id_partner, "GET", "/orders?ref=1").json() == {"items": []}


def test_a_partner_with_ids_of_its_own_loses_answers_too() -> None:
    with MockPartner(PartnerConfig(own_ids=True, drop_after_rate=1.0)) as partner:
        with pytest.raises(requests.ConnectionError):
            post(partner, '{"id":1}')
        assert partner.stats()["created"] == 1
        # A question changes nothing: it is not counted as applied.
        with pytest.raises(requests.ConnectionError):
            call(partner, "GET", "/orders?ref=1")
        partner.fix()
        assert call(partner, "GET", "/orders?ref=1").json() == {"items": [{"id": "P-000001"}]}
    assert [received.fate for received in partner.calls()] == ["dropped_after", "dropped_before", "found"]


def test_a_partner_that_is_told_so_has_ids_of_its_own() -> None:
    assert make_config(parse_arguments(["--own-ids"])).own_ids
    assert not make_config(parse_arguments([])).own_ids
