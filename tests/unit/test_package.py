"""What is built and published: the wheel, the source distribution, their metadata, the version, the extras."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from syncctl import __version__

PROJECT = Path(__file__).parents[2]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
EXTRAS = METADATA["optional-dependencies"]
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""
_NOT_COPIED = shutil.ignore_patterns(".*_cache", ".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "build")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the wheel and the source distribution, built from a copy in which secrets lie around."""
    source = tmp_path_factory.mktemp("package") / "source"
    shutil.copytree(PROJECT, source, ignore=_NOT_COPIED)
    for name in ("deploy/compose/secrets/mongo_password", "deploy/compose/.env", "docs/.env", "tests/.env"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("secret")
    out = source.parent / "dist"
    out.mkdir()
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, timeout=120, check=True)
    yield out
    shutil.rmtree(source.parent)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"syncctl-{__version__}.dist-info/METADATA"))


def test_the_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(PROJECT)) for path in (PROJECT / "syncctl").rglob("*.py")}
    about = {f"syncctl-{__version__}.dist-info/{name}" for name in
             ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")}  # fmt: skip
    assert set(wheel.namelist()) == modules | {"syncctl/py.typed"} | about


def test_the_source_distribution_has_what_its_tests_read_and_no_secret(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {
        "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", ".ci/run",
        ".env.example", "syncctl.toml.example", "docs/commands.md", "docs/pictures/show.svg", "syncctl/py.typed",
        "tests/unit/test_package.py", "benchmarks/__main__.py", "deploy/compose/make-secrets",
        "deploy/systemd/syncctl-worker@.service", "deploy/systemd/dotenv", "deploy/container/Dockerfile.dockerignore",
    } <= names  # fmt: skip
    assert [name for name in names if re.search(r"(^|/)(\.env|secrets)(/|$)|\.pyc$", name)] == []


def test_the_metadata_say_what_it_is(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("syncctl", __version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(EXTRAS)
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert str(metadata.get_payload()).startswith("# syncctl\n")


def test_the_version_has_one_place() -> None:
    assert METADATA["dynamic"] == ["version"]
    written = (PROJECT / "syncctl/__init__.py").read_text()
    assert written.count(f'"{__version__}"') == 1


def test_every_extra_that_a_page_names_exists_and_one_table_has_them_all() -> None:
    pages = [*PROJECT.glob("README*.md"), *PROJECT.glob("docs/**/*.md")]
    for page in pages:
        for names in re.findall(r"syncctl\[([a-z,]+)\]", page.read_text()):
            assert set(names.split(",")) <= set(EXTRAS), page
    rows = re.findall(r"^\| `(\w+)` \|", (PROJECT / "docs/install.md").read_text(), re.MULTILINE)
    assert rows == list(dict.fromkeys(rows))
    assert set(rows) == set(EXTRAS)
