"""The files in deploy/ fit the code: command lines parse, variables and settings exist, ports and paths agree."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from syncctl.cli import app
from syncctl.commandline import Invocation
from syncctl.settings import Settings, load_settings

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "syncctl:local"}
DOCKERFILE = (DEPLOY / "container/Dockerfile").read_text()
LONGEST_CALL_SECONDS = 30 + 10
"""The default of `timeout_seconds`, and what a worker needs to write the last outcomes."""


def parse(words: list[str]) -> None:
    """Parse the words after `syncctl` as syncctl does."""
    context = typer.main.get_command(app).make_context("syncctl", words, obj=Invocation())
    name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return every value of each key of a unit."""
    unit: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            unit.setdefault(key, []).append(value)
    return unit


def load_manifests() -> Iterator[dict[str, Any]]:
    """Yield every object for Kubernetes."""
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def load_pods() -> dict[str, dict[str, Any]]:
    """Return the pod of each Deployment by its name."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in load_manifests()
        if each["kind"] == "Deployment"
    }


def list_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command line of syncctl in deploy/, with its file."""
    for path in UNITS:
        (line,) = read_unit(path)["ExecStart"]
        yield path.name, line.replace("%i", "1").split()[1:]
    for name, service in OURS.items():
        yield f"compose {name}", service["command"]
        if (test := service["healthcheck"]["test"])[1] == "syncctl":
            yield f"compose {name} health", test[2:]
    for name, pod in load_pods().items():
        (container,) = pod["containers"]
        yield f"kubernetes {name}", container["args"]
        for probe in ("readinessProbe", "livenessProbe"):
            command = " ".join(container[probe].get("exec", {}).get("command", ()))
            if found := re.search(r"syncctl (.*?)(?:;|$)", command):
                yield f"kubernetes {name} {probe}", found[1].split()
    for found in re.finditer(r"^(?:CMD|HEALTHCHECK .* CMD) \[(.*)\]$", DOCKERFILE, re.MULTILINE):
        yield "Dockerfile", [word.strip(' "') for word in found[1].split(",") if word.strip(' "') != "syncctl"]


def list_variables() -> Iterator[tuple[str, str]]:
    """Yield each variable that a process of syncctl gets, with its file."""
    for path in UNITS:
        for line in read_unit(path)["Environment"]:
            yield from ((path.name, pair.partition("=")[0]) for pair in line.split())
    for name, service in OURS.items():
        yield from ((f"compose {name}", variable) for variable in service["environment"])
    for name, pod in load_pods().items():
        yield from ((f"kubernetes {name}", variable["name"]) for variable in pod["containers"][0]["env"])
    for line in (DEPLOY / "systemd/dotenv").read_text().splitlines():
        if not line.startswith("#"):
            yield "dotenv", line.partition("=")[0]


COMMANDS = list(list_commands())


def test_each_way_runs_a_worker_a_beat_and_the_metrics() -> None:
    for way in ("syncctl-", "compose ", "kubernetes "):
        started = {words[0] for name, words in COMMANDS if name.startswith(way)}
        assert {"worker", "beat", "metrics"} <= started, way
    assert ["health"] in [words for name, words in COMMANDS if name == "Dockerfile"]


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_line_parses(where: str, words: list[str]) -> None:
    parse(words)


def test_every_variable_is_read_by_the_settings_or_named_by_them() -> None:
    named = {"MONGO_PASSWORD", "REDIS_PASSWORD"}
    toml = (DEPLOY / "compose/project/syncctl.toml").read_text()
    assert named == set(re.findall(r"\$\{(\w+)\}", toml)) - {"NAME"}
    known = {"SYNCCTL_DIRECTORY", "PYTHONDONTWRITEBYTECODE", *named, *(name.upper() for name in Settings.model_fields)}
    for where, variable in list_variables():
        assert variable.removesuffix("_FILE") in known, (where, variable)


@pytest.mark.parametrize("way", ["compose/project", "systemd", "kubernetes"])
def test_the_settings_load(way: str, tmp_path: Path) -> None:
    secrets = {
        "MONGO_URL": "mongodb://syncctl:secret@mongo:27017/celery_logs",
        "REDIS_URL": "redis://:secret@redis:6379/0",
        "SOURCE_URL": "mssql+pyodbc://reader:secret@sqlserver:1433/erp",
        "PARTNER_URL": "https://api.partner.example/v1",
        "PARTNER_TOKEN": "token",
    }
    if way.startswith("compose"):
        del secrets["MONGO_URL"], secrets["REDIS_URL"]
        secrets |= {"MONGO_PASSWORD": "secret", "REDIS_PASSWORD": "secret"}
    environment = {}
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
        environment[f"{name}_FILE"] = str(tmp_path / name)
    shutil.copy(DEPLOY / way / "syncctl.toml", tmp_path)
    settings = load_settings(directory=tmp_path, environment=environment)
    assert list(settings.streams) == ["orders"]
    assert settings.partner("default").url == "https://api.partner.example/v1"
    assert ":secret@" in settings.mongo_url


def test_a_stop_leaves_a_worker_the_time_of_the_longest_call() -> None:
    (unit,) = (read_unit(path) for path in UNITS if "worker" in path.name)
    assert int(unit["TimeoutStopSec"][0]) >= LONGEST_CALL_SECONDS
    assert (unit["KillSignal"], unit["KillMode"]) == (["SIGTERM"], ["mixed"])
    assert int(OURS["worker"]["stop_grace_period"].removesuffix("s")) >= LONGEST_CALL_SECONDS
    assert load_pods()["syncctl-worker"]["terminationGracePeriodSeconds"] >= LONGEST_CALL_SECONDS


def test_the_metrics_have_one_port() -> None:
    scraped = (DEPLOY / "prometheus/scrape.yml").read_text()
    ports = {words[-1].rpartition(":")[2] for _, words in COMMANDS if words[0] == "metrics"}
    (service,) = (each for each in load_manifests() if each["kind"] == "Service")
    ports |= {str(port["port"]) for port in service["spec"]["ports"]}
    ports |= {str(port["containerPort"]) for port in load_pods()["syncctl-metrics"]["containers"][0]["ports"]}
    ports |= set(re.findall(r"targets: \[\"127\.0\.0\.1:(\d+)\"\]", scraped))
    ports |= {part for port in OURS["metrics"]["ports"] for part in port.split(":")[1:]}
    assert ports == {"9464"}


def test_nothing_runs_as_root_or_can_write_to_its_image() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert f"--uid {user} " in DOCKERFILE
    assert DOCKERFILE.rindex("USER") > DOCKERFILE.rindex("RUN")
    for pod in load_pods().values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) == user
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "memory" in container["resources"]["limits"]
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in OURS.values())
    assert all(read_unit(path)["User"] == ["syncctl"] for path in UNITS)


def test_secrets_come_from_files_and_every_file_is_made_or_mounted() -> None:
    for where, variable in list_variables():
        secret = re.search(r"PASSWORD|TOKEN|MONGO_URL|REDIS_URL|SOURCE_URL", variable)
        assert secret is None or variable.endswith("_FILE"), (where, variable)
    for path in UNITS:
        unit = read_unit(path)
        loaded = {credential.partition(":")[0] for credential in unit["LoadCredential"]}
        assert loaded == set(re.findall(r"%d/(\w+)", " ".join(unit["Environment"])))
    made = (DEPLOY / "compose/make-secrets").read_text()
    for name, secret in COMPOSE["secrets"].items():
        assert secret["file"] == f"./secrets/{name}"
        assert re.search(rf"\b{name}\b", made)
    assert not re.search(r"^(?:ARG|ENV) .*(?:TOKEN|PASSWORD|SECRET)", DOCKERFILE, re.MULTILINE)


def test_the_selectors_of_kubernetes_find_their_pods() -> None:
    components = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in load_manifests()
                  if each["kind"] == "Deployment"}  # fmt: skip
    for each in load_manifests():
        spec = each.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        labels = selector.get("matchLabels", selector)
        if labels:
            assert labels["app.kubernetes.io/component"] in components
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]


def test_the_image_gets_what_it_is_built_from_and_nothing_else() -> None:
    ignored = (DEPLOY / "container/Dockerfile.dockerignore").read_text().splitlines()
    (context, package) = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == {*context.split(), package}
    assert all((PROJECT / name).exists() for name in (*context.split(), package))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        here = path.read_text().replace("/opt/syncctl/bin/syncctl", sys.executable)
        (tmp_path / path.name).write_text(here)
    command = ["systemd-analyze", "verify", *(str(tmp_path / path.name) for path in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "syncctl" in line] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_the_kustomization() -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [each["kind"] for each in yaml.safe_load_all(done.stdout)]
    assert kinds.count("Deployment") == 3
    assert "ConfigMap" in kinds
