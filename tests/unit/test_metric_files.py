"""The dashboard, the alert rules and docs/metrics.md name the metrics that there are, and all of them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from syncctl.core.metric_table import METRICS, name_outcome

PROJECT = Path(__file__).parents[2]
DASHBOARD = PROJECT / "deploy/grafana/syncctl.json"
RULES = PROJECT / "deploy/prometheus/syncctl.rules.yml"
PAGE = PROJECT / "docs/metrics.md"
_NAME = re.compile(r"\bsyncctl_[a-z0-9_]+")
_SELECTOR = re.compile(r"\b(syncctl_[a-z0-9_]+)\{([^}]*)\}")
NOT_WATCHED = {"syncctl_queue_dropped_total", "syncctl_worker_slots", "syncctl_write_back_records"}
"""The metrics that neither a panel nor a rule asks for."""
SHOWN_AS = ("_bucket", "_sum", "_count")


def name_metric(text: str) -> str:
    """Return the metric that a series belongs to."""
    end = next((end for end in SHOWN_AS if text.endswith(end)), "")
    name = text.removesuffix(end)
    return name if end and METRICS.get(name) and METRICS[name].kind == "histogram" else text


def list_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = re.findall(r"^ +expr: (.*(?:\n {10}.*)*)", RULES.read_text(), re.MULTILINE)
    assert len(rules) == RULES.read_text().count("- alert:")
    return [*(target["expr"] for panel in panels for target in panel.get("targets", ())), *rules]


def test_the_dashboard_and_the_rules_name_metrics_and_labels_that_there_are() -> None:
    for expression in list_expressions():
        names = {name_metric(name) for name in _NAME.findall(expression)}
        assert names
        assert names <= set(METRICS), expression
        for name, labels in _SELECTOR.findall(expression):
            used = set(re.findall(r"([a-z_]+)\s*[=!]", labels))
            assert used <= set(METRICS[name_metric(name)].labels), expression


def test_every_metric_is_watched() -> None:
    watched = {name_metric(name) for expression in list_expressions() for name in _NAME.findall(expression)}
    assert set(METRICS) - watched == NOT_WATCHED


def test_every_value_that_a_rule_asks_for_is_one_that_there_is() -> None:
    from syncctl.core.metric_table import CIRCUIT_STATES, FINISHED_STATES

    known = {*CIRCUIT_STATES, *FINISHED_STATES, "upkeep", "roll_up", "pending", "retrying", "sending"}
    for expression in list_expressions():
        for values in re.findall(r'(?:state|outcome|job)[=!]~?"([^"]*)"', expression):
            assert set(values.split("|")) <= known, expression


def test_the_page_has_each_metric_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(syncctl_\w+)` \| (\w+) \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    described = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert described == {name: (metric.kind, metric.labels) for name, metric in METRICS.items()}


def test_every_alert_is_on_the_page() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r"`(Syncctl\w+)`", PAGE.read_text()))


def test_names_follow_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("syncctl_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not re.search(r"_(ms|millis|minutes|hours|kb|mb)\b", name)
        assert not {"key", "id", "message", "error", "worker"} & set(metric.labels)


@pytest.mark.parametrize(
    ("status", "has_error", "outcome"),
    [
        (200, False, "accepted"),
        (404, False, "accepted"),
        (None, True, "no_answer"),
        (429, True, "http_429"),
        (422, True, "http_4xx"),
        (503, True, "http_5xx"),
        (302, True, "http_other"),
        (200, True, "http_other"),
    ],
)
def test_an_attempt_has_one_of_few_outcomes(status: int | None, has_error: bool, outcome: str) -> None:
    assert name_outcome(status, has_error=has_error) == outcome


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules_and_the_scrape_configuration() -> None:
    for what, file in (("rules", RULES), ("config", RULES.with_name("scrape.yml"))):
        command = ["promtool", "check", what, file.name]
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
