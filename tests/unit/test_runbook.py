"""docs/runbook.md has a section for each alert and each check of the doctor, and for no other."""

import re
from pathlib import Path

import pytest

from syncctl.core.alert_rules import RULES
from syncctl.doctor.examination import Examination
from syncctl.doctor.groups import GROUPS, group_of
from syncctl.settings import load_settings
from tests.unit.test_docs import name_anchor

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "runbook.md"
PROMETHEUS = PROJECT / "deploy" / "prometheus" / "syncctl.rules.yml"
ALERTS, CHECKS = "When an alert fires", "When a check fails or warns"
NOT_MEASURED_HERE = {"SyncctlMetricsMissing"}
"""Alerts of Prometheus that no rule and no check of syncctl stands for."""
SETTINGS = """
partner_url = "https://api.partner.example"

[partners.default]
auth = { type = "none" }

[alerts]
webhook = "${ALERT_WEBHOOK_URL}"
smtp = "smtp://mail.example"
email_from = "syncctl@example.com"
email_to = ["oncall@example.com"]

[streams.orders]
table = "dbo.orders"
start = "beginning"
mode = "{mode}"
cursor = "id"
capture = { id = "id" }
write_back = { partner_id = "remote.id" }

[streams.orders.children.lines]
table = "dbo.order_lines"
on = { order_id = "id" }
sort = ["line"]
"""
ENVIRONMENT = {
    "SOURCE_URL": "mssql+pyodbc://reader:secret@sqlserver/erp",
    "ALERT_WEBHOOK_URL": "https://hooks.example/services/T0",
}


def read_sections() -> dict[str, dict[str, str]]:
    """Return the sections of each part of the page, by their headings."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        pieces = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
        found[title] = dict(zip(pieces[::2], pieces[1::2], strict=True))
    return found


def list_checks(directory: Path) -> list[str]:
    """Return the names of all checks, as the page spells them, in the order of their groups."""
    names: dict[str, None] = {}
    for mode in ("change_tracking", "increasing"):
        text = SETTINGS.replace("{mode}", mode)
        (directory / "syncctl.toml").write_text(text.replace('cursor = "id"\n', "") if mode != "increasing" else text)
        settings = load_settings(directory=directory, environment=ENVIRONMENT)
        settings.check()
        for unit in Examination(settings, directory=directory, timeout_seconds=1).units:
            names[spell(unit.name)] = None
    return sorted(names, key=lambda name: GROUPS.index(group_of(name)))


def spell(check: str) -> str:
    """Return a check's name with a placeholder in place of the name of a source, a stream or a partner."""
    group, _, rest = check.partition(" ")
    kinds = {"source": {"default": "SOURCE", "orders": "STREAM"}, "partner": {"default": "NAME"}}
    kinds["streams"] = {"orders": "STREAM"}
    first, _, aspect = rest.partition(" ")
    return " ".join(word for word in (group, kinds.get(group, {}).get(first, first), aspect) if word)


def test_every_alert_has_a_section_and_no_other_is_there() -> None:
    """A new rule needs `### its_name` on docs/runbook.md: what it means; then **Do:** and what to do."""
    assert list(read_sections()[ALERTS]) == [*RULES, *sorted(NOT_MEASURED_HERE)]


def test_every_check_has_a_section_and_no_other_is_there(tmp_path: Path) -> None:
    """A new check needs `### group STREAM aspect` on docs/runbook.md, in the order of the groups."""
    sections, checks = list(read_sections()[CHECKS]), list_checks(tmp_path)
    assert set(sections) == set(checks)
    assert sorted(sections, key=lambda name: GROUPS.index(group_of(name))) == sections


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    for part in (ALERTS, CHECKS):
        for title, text in read_sections()[part].items():
            meaning, _, steps = text.partition("\n**Do")
            assert meaning.strip(), title
            assert steps.strip(), f"{title} lacks its **Do:**"


def test_every_obstacle_has_something_to_do() -> None:
    kinds = set(re.findall(r'kind="(\w+)"', (PROJECT / "syncctl/pipeline/monitoring/obstacles.py").read_text()))
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", read_sections()[CHECKS]["streams STREAM"], re.MULTILINE)
    assert {kind for row in rows for kind in re.findall(r"`(\w+)`", row)} == kinds


@pytest.mark.parametrize("alert", PROMETHEUS.read_text(encoding="utf-8").split("- alert: ")[1:], ids=str.split)
def test_every_alert_of_prometheus_names_its_section(alert: str) -> None:
    """An alert needs `runbook: docs/runbook.md#SECTION` among its annotations."""
    sections = read_sections()
    anchors = {name_anchor(title) for part in (ALERTS, CHECKS) for title in sections[part]}
    named = re.findall(r"^ {10}runbook: docs/runbook\.md#(\S+)$", alert, re.MULTILINE)
    assert len(named) == 1
    assert set(named) <= anchors
