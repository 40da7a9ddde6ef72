"""Every secret that syncctl takes, and a partner that repeats them all: afterwards none can be found anywhere."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from redis import Redis

from tests.harness.connect_proxy import ConnectProxy
from tests.harness.hostile_partner import HostilePartner, Peer
from tests.harness.source_db import SourceDb

pytestmark = pytest.mark.timeout(300)

CANARY = "cAn4ry"
NAMES = (
    "TOKEN", "API_KEY", "QUERY_KEY", "PASSWORD", "CLIENT_SECRET", "HEADER", "TENANT", "COOKIE", "KEY_PASSWORD",
    "SPARE_TOKEN", "SPARE_PASSWORD", "SPARE_CLIENT_SECRET", "SPARE_KEY",
)  # fmt: skip
SECRETS = {name: f'{CANARY}/{number}+&"\\{name.lower()}' for number, name in enumerate(NAMES)}
SECRETS["PROXY_PASSWORD"] = f"{CANARY}-proxy"
SECRETS["WEBHOOK"] = "whsec_" + b64encode(f"{CANARY} webhook key".encode()).decode()
SECRETS["OLD_WEBHOOK"] = f"{CANARY} old webhook key"
SECRETS["MASK_SECRET"] = f"{CANARY}-mask-secret-of-more-than-32-characters"
SECRETS["CRM_PASSWORD"] = f"{CANARY};crm"
SECRETS["HR_PASSWORD"] = f"{CANARY}%40%2Fhr"
SECRETS["UNSAFE_PASSWORD"] = f"{CANARY}-unsafe"
ACCESS_TOKEN = f"{CANARY}.access.token"
ALL = (*SECRETS.values(), ACCESS_TOKEN)
ROWS = 11

AUTHS: dict[str, dict[str, str]] = {
    "bearer": {"type": "bearer", "token": "${TOKEN}"},
    "keyed": {"type": "api_key", "name": "X-Api-Key", "value": "${API_KEY}"},
    "queried": {"type": "api_key", "name": "key", "in": "query", "value": "${QUERY_KEY}"},
    "basic": {"type": "basic", "user": "me", "password": "${PASSWORD}"},
    "oauth": {"type": "oauth2", "client_id": "me", "client_secret": "${CLIENT_SECRET}"},
    "deskless": {"type": "oauth2", "client_id": "me", "client_secret": "${CLIENT_SECRET}", "client_auth": "body"},
    "signed": {"type": "hmac", "secret": "${WEBHOOK}", "previous_secret": "${OLD_WEBHOOK}"},
}


def list_traces() -> set[str]:
    """Return every canary in each form in which it may be sent."""
    encoded = [
        f"me:{SECRETS['PASSWORD']}",
        f"me:{quote(SECRETS['CLIENT_SECRET'], safe='')}",
        f"me:{SECRETS['PROXY_PASSWORD']}",
    ]
    traces = {CANARY, *SECRETS.values(), SECRETS["WEBHOOK"].removeprefix("whsec_")}
    return traces | {b64encode(each.encode()).decode() for each in encoded}


def list_forms() -> set[str]:
    """Return every spelling that must not be found. All secrets begin alike: so does what is left of a cut one."""
    forms = {form for trace in list_traces() for form in (trace, quote(trace, safe=""), json.dumps(trace)[1:-1])}
    forms |= {CANARY[:4], " ".join(CANARY[:4]), "\\x00".join(CANARY[:4]), "\\u0000".join(CANARY[:4])}
    forms |= {CANARY.encode().hex()[:8], CANARY.encode().hex().upper()[:8]}
    # The same six letters in base64, wherever in a text they begin.
    forms |= {b64encode(bytes(before) + CANARY.encode()).decode()[-(-before * 8 // 6) :][:6] for before in range(3)}
    return forms


def list_sent() -> set[str]:
    """Return the secrets that must have been sent; the webhook keys and the key's password never are."""
    basic = (
        f"me:{SECRETS['PASSWORD']}",
        f"me:{quote(SECRETS['CLIENT_SECRET'], safe='')}",
        f"me:{SECRETS['PROXY_PASSWORD']}",
    )
    plain = {
        SECRETS["TOKEN"],
        SECRETS["API_KEY"],
        SECRETS["HEADER"],
        SECRETS["TENANT"],
        SECRETS["COOKIE"],
        ACCESS_TOKEN,
        quote(SECRETS["QUERY_KEY"], safe=""),
    }
    return {b64encode(each.encode()).decode() for each in basic} | plain | {quote(SECRETS["CLIENT_SECRET"], safe="")}


def tell_all(request: bytes) -> str:
    """Return a request as an indiscreet partner repeats it: the most secret part first, then all of it."""
    head, _, body = request.decode("latin-1").partition("\r\n\r\n")
    line = head.partition("\r\n")[0]
    telling = list_telling(request)
    return " ".join([*telling, line, unquote(line), body])


def list_telling(request: bytes) -> list[str]:
    """Return the headers that hold secrets, or the target where none does."""
    line, *fields = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    dull = ("host", "accept", "user-agent", "content", "syncctl", "idempotency", "webhook-id", "webhook-timestamp")
    return [field for field in fields if not field.lower().startswith(dull)] or [line.split()[1]]


def echo_encoded(peer: Peer, row: int, request: bytes) -> bool:
    """Repeat a request as logs and frameworks write it; return False where the connection ends."""
    telling = list_telling(request)
    output = " ".join(telling)
    encoded = b64encode(output.encode()).decode()
    match row:
        case 5:
            peer.answer("422 No", json.dumps({"message": encoded.rstrip("=")}).encode())
        case 6:
            url_safe = encoded.translate(str.maketrans("+/", "-_"))
            peer.answer("400 Bad", f"{url_safe} {output.encode().hex()} {output.encode().hex().upper()}".encode())
        case 7:
            peer.answer("400 Bad", output.encode("utf-16"))
        case 8:
            peer.answer("422 No", repr([output.encode(), {"said": output}]).encode("utf-16-le"))
        case 9:
            # It cuts its own message within the last secret.
            peer.answer("422 No", json.dumps({"message": f"denied: {telling[-1][:-4]}"}).encode())
        case 10:
            peer.send(f"HTTP/1.1 503 No\r\nContent-Length: 9999\r\n\r\n{telling[-1][:-4]}".encode())
            return False
    return True


def echo(peer: Peer) -> None:
    """Repeat each request: refused and in JSON, failed and as text, redirected, accepted, dropped in the middle."""
    while request := peer.read_request():
        output = tell_all(request)
        body = request.partition(b"\r\n\r\n")[2]
        row = json.loads(body)["id"] if body else 1
        if row == 1:
            peer.answer("422 No", json.dumps({"message": output}).encode(), f"X-Echo: {output}")
        elif row == 2:
            peer.answer("500 Oops", output.encode())
        elif row == 3:
            peer.answer("302 Found", output.encode(), f"Location: https://h/?{quote(output)}")
        elif row == 4:
            peer.answer("200 OK", json.dumps({"echo": [output, output.replace("/", "\\/")]}).encode())
        elif row < ROWS:
            if not echo_encoded(peer, row, request):
                return
        else:
            peer.send(f"HTTP/1.1 503 {output}\r\nContent-Length: 9999\r\n\r\n{output}".encode())
            return


def give_token(peer: Peer) -> None:
    while peer.read_request():
        peer.answer("200 OK", json.dumps({"access_token": ACCESS_TOKEN, "expires_in": 3600}).encode())


def refuse_token(peer: Peer) -> None:
    while request := peer.read_request():
        peer.answer("400 Bad", json.dumps({"error_description": tell_all(request)}).encode())


@pytest.fixture
def servers() -> Iterator[dict[str, Any]]:
    """The partner, the two token endpoints and the proxy."""
    with ExitStack() as stack:
        proxy = ConnectProxy(credentials=f"me:{SECRETS['PROXY_PASSWORD']}")
        yield {
            "partner": stack.enter_context(HostilePartner(echo)),
            "oauth": stack.enter_context(HostilePartner(give_token)),
            "deskless": stack.enter_context(HostilePartner(refuse_token)),
            "proxy": stack.enter_context(proxy),
        }


@pytest.fixture
def directory(make_settings: Callable[..., Path], servers: dict[str, Any]) -> Path:
    """Settings with a partner and a stream for each auth kind."""
    common = {
        "url": servers["partner"].url,
        "headers": {"X-Secret": "${HEADER}", "X-Tenant-Key": "${TENANT}", "Cookie": "${COOKIE}"},
        "client_cert": "/none.pem",
        "client_key_password": "${KEY_PASSWORD}",
        "breaker": {"calls": 10_000},
    }
    partners: dict[str, Any] = {name: {**common, "auth": auth} for name, auth in AUTHS.items()}
    for name in ("oauth", "deskless"):
        partners[name]["auth"] = {**AUTHS[name], "token_url": f"{servers[name].url}/token"}
    # Its proxy holds on to an answer that broke off.
    partners["basic"]["timeout_seconds"] = 5
    partners["basic"]["proxy"] = f"http://me:${{PROXY_PASSWORD}}@127.0.0.1:{servers['proxy'].port}"
    # Nothing is sent with these, and `config` shows them.
    spare = {"url": servers["partner"].url, "headers": {"X-Spare-Key": "${SPARE_KEY}"}}
    partners["spare"] = {**spare, "auth": {"type": "bearer", "token": "${SPARE_TOKEN}"}}
    partners["spare2"] = {**spare, "auth": {"type": "basic", "user": "me", "password": "${SPARE_PASSWORD}"}}
    oauth = {**AUTHS["oauth"], "client_secret": "${SPARE_CLIENT_SECRET}", "token_url": f"{servers['oauth'].url}/token"}
    partners["spare3"] = {**spare, "auth": oauth}
    sources = {
        "crm": {"url": "Driver=x;Server=127.0.0.1,1;UID=me;PWD={${CRM_PASSWORD}}"},
        "hr": {"url": "mssql+pyodbc://me:${HR_PASSWORD}@127.0.0.1:1/hr"},
    }
    stream = {
        "table": "orders",
        "start": "beginning",
        "key": ["id"],
        "mode": "increasing",
        "cursor": "id",
        "endpoint": "POST /orders",
        "mask": {"note": "hash"},
        "retry": {"schedule": ["100ms"], "jitter": 0},
    }
    return make_settings(
        partner_url=servers["partner"].url,
        stream={**stream, "partner": "bearer"},
        sections={
            "partners": partners,
            "sources": sources,
            "streams": {name: {**stream, "partner": name} for name in AUTHS if name != "bearer"},
        },
    )


def dump_ledger(database: Any) -> str:
    """Return every document of every collection as text."""
    names = database.list_collection_names()
    assert {"records", "runs", "streams"} <= set(names)
    return "\n".join(str(document) for name in names for document in database[name].find())


def dump_redis(url: str) -> str:
    """Return every key and every value as text."""
    readers = {
        b"string": lambda redis, key: redis.get(key),
        b"list": lambda redis, key: redis.lrange(key, 0, -1),
        b"set": lambda redis, key: redis.smembers(key),
        b"hash": lambda redis, key: redis.hgetall(key),
        b"zset": lambda redis, key: redis.zrange(key, 0, -1, withscores=True),
    }
    with Redis.from_url(url) as redis:
        return "\n".join(f"{key!r} {readers[redis.type(key)](redis, key)!r}" for key in redis.scan_iter())


def test_no_secret_is_left_anywhere(
    directory: Path,
    servers: dict[str, Any],
    source_db: SourceDb,
    mongo_database: Any,
    redis_url: str,
    run_syncctl: Callable[..., Any],
    start_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    assert len(set(ALL)) >= 20
    source_db.create_orders(ROWS)
    output: list[str] = []

    def run(*args: str) -> Any:
        done = run_syncctl(*args, cwd=directory, env=SECRETS)
        output.extend((done.stdout, done.stderr))
        return done

    assert run("--debug", "poll", "--once").exit_code == 0
    worker = start_syncctl("--debug", "worker", "--beat", "--pool", "threads", cwd=directory, env=SECRETS)

    def look() -> bool:
        query = {"stream": {"$ne": "deskless"}, "state": {"$in": ["delivered", "failed"]}}
        return mongo_database.records.count_documents(query) == ROWS * (len(AUTHS) - 1)

    eventually(look, timeout=120)
    eventually(lambda: "no token from" in dump_ledger(mongo_database), timeout=60)
    worker.terminate()
    worker.wait()
    output.append(worker.log)

    failed = run("show", "keyed", "1", "--json").json["records"][0]
    assert "***" in failed["error"]["message"]
    unsafe = {"SOURCE_URL": f"mssql+pyodbc://me:p@ss/{SECRETS['UNSAFE_PASSWORD']}@h/db"}
    refused = run_syncctl("--debug", "config", cwd=directory, env={**SECRETS, **unsafe})
    assert refused.exit_code == 2
    output.extend((refused.stdout, refused.stderr))
    for command in (
        ("--debug", "doctor", "--timeout", "5s"),
        ("report",),
        ("failures",),
        ("failures", "--json"),
        ("show", "basic", "2"),
        ("show", "oauth", "4", "--json"),
        ("show", "queried", "1", "--json"),
        ("config", "--json"),
        ("status",),
        *(("show", stream, str(row), "--json") for stream in ("bearer", "basic") for row in range(5, ROWS)),
        ("show", "keyed", "2", "--request"),
        ("poll", "queried", "--dry-run", "--known"),
    ):
        run(*command)

    # Every secret has travelled: else there would be nothing to be found.
    sent = b"".join(servers["partner"].requests + servers["oauth"].requests + servers["deskless"].requests).decode()
    sent += " ".join(servers["proxy"].heads)
    assert {trace for trace in list_sent() if trace not in sent} == set()

    places = {
        "ledger": dump_ledger(mongo_database),
        "redis": dump_redis(redis_url),
        "output": "\n".join(output),
    }
    assert "***" in places["ledger"]
    assert ":shelf:token:" in places["redis"], "the token is there, and not to be read"
    forms = list_forms()
    found = [
        (name, text[max(0, text.find(form) - 200) : text.find(form) + 60])
        for name, text in places.items()
        for form in sorted(forms)
        if form in text
    ]
    assert found == []
