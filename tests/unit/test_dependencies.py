"""Everything that a worker imports is a dependency of syncctl itself; a developer's tools bring more than that."""

import re
import subprocess
import sys
from importlib import metadata

CODE = """
import sys
import celery, kombu.transport.redis, celery.backends.redis, pymongo, aiohttp, certifi, sqlalchemy, typer, pydantic
import jinja2, jsonschema, simplejson, cryptography.fernet, dotenv, rich.table
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
OF_PYTHON = {"setuptools", "pip"}
# Kombu imports YAML where it is installed, as `make docs` installs it; nothing here is sent as YAML.
IMPORTED_IF_INSTALLED = {"pyyaml"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def list_installed_with(name: str, known: set[str]) -> set[str]:
    """Return the distributions that installing one brings, without extras."""
    if name in known:
        return known
    known.add(name)
    try:
        asked = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return known
    for each in asked:
        if "extra ==" not in each:
            list_installed_with(normalise(re.split(r"[^\w.-]", each, maxsplit=1)[0]), known)
    return known


def test_every_package_that_a_worker_imports_is_a_declared_dependency() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    owners = metadata.packages_distributions()
    imported = {normalise(each) for module in done.stdout.split() for each in owners.get(module, ())}
    assert imported - list_installed_with("syncctl", set()) <= OF_PYTHON | IMPORTED_IF_INSTALLED
