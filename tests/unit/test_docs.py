"""The documents are true: links resolve, commands parse, and the files, names, folders and tests they mention exist."""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from syncctl.cli import app
from syncctl.commandline import Invocation
from syncctl.errors import UsageError
from syncctl.ledger.indexes import INDEXES
from tests.harness.way_tracer import AT_MOST

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "syncctl"
PAGES = sorted(
    path.relative_to(PROJECT)
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("benchmarks/**/*.md"))
)
_FENCE = re.compile(r"^ *(?:\d+\. +)?```([\w-]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"\s(?:>>?|\|\|?|&&)\s")
_EAGER = re.compile(r"--help|--version|completion")
_INLINE = re.compile(r"`(syncctl [^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_DRAWN = re.compile(r"^( {2,})([\w.]+/?) {2,}\S", re.MULTILINE)
_MENTION = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[a-z_]\w*\.py)(?::([A-Za-z_][\w.]*))?")
_MORE_NAMES = re.compile(r"`[\w/]+\.py:\w[\w.]*`((?:, `[A-Za-z_][\w.]*`)+)")
_TEST = re.compile(r"`(test_\w+)`")
_PRIVATE_WORDS = re.compile(
    r"\b(nobody|anybody|so many|counts? as|(?:is|are) told|what is due|by lot|under way|upkeep|chores?|shelf|flights"
    r"|second look|held against|on the ground|come upon|practice partner|the way of a)\b",
    re.IGNORECASE,
)


def read(page: Path) -> str:
    """Return the text of a page of the project."""
    return (PROJECT / page).read_text(encoding="utf-8")


def find_links(text: str) -> list[str]:
    """Return the targets of a page's links, those in code left out."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", text)))


def name_anchor(heading: str) -> str:
    """Return the anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def find_broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere inside the project."""
    for link in find_links(read(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT / page).parent / path if path else PROJECT / page
        if not target.exists():
            yield link
        elif anchor:
            anchors = {name_anchor(match) for match in _HEADING.findall(_FENCE.sub("", target.read_text("utf-8")))}
            if anchor not in anchors:
                yield link


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(find_broken(page)) == []


def test_every_page_is_linked_from_the_index() -> None:
    linked = {link.partition("#")[0] for link in find_links(read(Path("docs/README.md")))}
    pages = {path.relative_to(PROJECT / "docs").as_posix() for path in PROJECT.glob("docs/**/*.md")}
    assert {page for page in pages if not re.match(r"adr/\d", page)} - linked == {"README.md"}


def test_every_decision_is_in_its_index() -> None:
    linked = set(find_links(read(Path("docs/adr/README.md"))))
    assert linked == {path.name for path in PROJECT.glob("docs/adr/[0-9]*.md")}


def commands_in(text: str) -> list[str]:
    """Return the command lines of syncctl in the shell blocks of a page."""
    lines = [
        line.strip()
        for language, body in _FENCE.findall(text)
        if language == "sh"
        for line in body.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("syncctl ")]


def parse(line: str) -> None:
    """Parse a command line as syncctl does, without carrying it out, up to the first operator of the shell."""
    words = shlex.split(_SHELL.split(line)[0], comments=True)
    context = typer.main.get_command(app).make_context("syncctl", words[1:], obj=Invocation())
    while hasattr(context.command, "resolve_command") and [*context._protected_args, *context.args]:
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_the_readme_shows_the_way() -> None:
    shown = {line.split()[1] for line in commands_in(read(Path("README.md")))}
    assert {"init", "doctor", "poll", "worker", "status", "report", "replay"} <= shown


def test_the_tutorial_shows_how_many_indexes_are_created() -> None:
    assert f"the ledger's indexes are in place: {len(INDEXES)} created\n" in read(Path("docs/tutorial.md"))


def read_code(page: str) -> list[tuple[str, list[str]]]:
    """Return the blocks of code of a page, without comments of the shell, which are translated."""
    return [
        (language, [re.sub(r"\s+#.*", "", line) if language == "sh" else line for line in body.splitlines()])
        for language, body in _FENCE.findall(read(Path(page)))
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_a_translation_has_the_same_code(page: str) -> None:
    assert read_code(page.replace(".md", ".vi.md")) == read_code(page)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_a_translation_has_the_same_sections_and_links(page: str) -> None:
    text, translated = read(Path(page)), read(Path(page.replace(".md", ".vi.md")))
    depths = [
        [len(heading[0].split()[0]) for heading in _HEADING.finditer(_FENCE.sub("", each))]
        for each in (text, translated)
    ]
    assert depths[0] == depths[1]
    language = re.compile(r"\.vi(?=\.md)")
    links = [{language.sub("", link) for link in find_links(each)} for each in (text, translated)]
    assert links[0] - links[1] == set()


def test_the_readme_is_short() -> None:
    assert len(read(Path("README.md")).splitlines()) < 150


def find_refused(lines: list[str]) -> Iterator[str]:
    """Yield the command lines that syncctl would refuse; one that only lacks an argument is a mention."""
    for line in lines:
        try:
            parse(line)
        except (typer.exceptions.TyperException, UsageError) as error:
            if not re.search(r"Missing parameter|requires an argument", str(error)):
                yield f"{line}: {error}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_that_a_page_shows_parses(page: Path) -> None:
    for line in commands_in(read(page)):
        parse(line)
    # Of `health worker|beat`, the first.
    mentioned = _INLINE.findall(re.sub(r"(\w)\|\w+", r"\1", _FENCE.sub("", read(page)).replace("\n", " ")))
    assert list(find_refused([line for line in mentioned if not _EAGER.search(line)])) == []


@pytest.mark.parametrize("line", ["syncctl no-such-command", "syncctl status --no-such-flag", "syncctl discard ID"])
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises((typer.exceptions.TyperException, UsageError)):
        parse(line)


def draw(folder: Path, depth: int = 1) -> set[tuple[int, str]]:
    """Return what the drawing must show of a folder: its packages at every depth, its modules at the top."""
    found = set()
    for path in folder.iterdir():
        if (path / "__init__.py").exists():
            found |= {(depth, f"{path.name}/")} | draw(path, depth + 1)
        elif depth == 1 and path.suffix == ".py" and path.name != "__init__.py":
            found.add((depth, path.name))
    return found


def test_the_drawn_folders_are_those_of_the_package() -> None:
    blocks = [body for _, body in _FENCE.findall(read(Path("docs/architecture.md"))) if body.startswith("syncctl/\n")]
    assert len(blocks) == 1
    assert {(len(indent) // 2, name) for indent, name in _DRAWN.findall(blocks[0])} == draw(PACKAGE)


def list_names(node: ast.AST, inside: str = "") -> Iterator[str]:
    """Yield the dotted names of what a module defines: its functions and classes, theirs, and what both assign to."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{inside}{child.name}"
            yield from list_names(child, f"{inside}{child.name}.")
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield f"{inside}{child.id}"
        elif not isinstance(child, ast.expr | ast.arguments):
            yield from list_names(child, inside)


@functools.cache
def names_of(path: Path) -> frozenset[str]:
    """Return every name that a file defines, also without the names of what it is inside of."""
    names = list_names(ast.parse(path.read_text(encoding="utf-8")))
    parts = [name.split(".") for name in names]
    return frozenset(".".join(words[start:]) for words in parts for start in range(len(words)))


@functools.cache
def list_files() -> tuple[Path, ...]:
    """Return the Python files of the package and of its tests."""
    return (*PACKAGE.rglob("*.py"), *(PROJECT / "tests").rglob("*.py"))


def find_mentions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the files that a page mentions, each with a name in it, or with an empty one."""
    yield from _MENTION.findall(text)
    for mention in _MORE_NAMES.finditer(text):
        file = mention[0].strip("`").partition(":")[0]
        yield from ((file, name) for name in re.findall(r"`([\w.]+)`", mention[1]))


def is_in_the_code(file: str, name: str) -> bool:
    """Tell whether a file of that path, or of that last part of a path, exists and defines the name."""
    candidates = [path for path in list_files() if path.as_posix().endswith(f"/{file}")]
    return any(not name or name in names_of(path) for path in candidates)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_and_name_that_a_page_mentions_exists(page: Path) -> None:
    unknown = {f"{file}:{name}" for file, name in find_mentions(read(page)) if not is_in_the_code(file, name)}
    assert unknown == set()


def test_the_architecture_page_counts_the_files_of_each_way() -> None:
    counts = re.findall(r"^\| an? (\S.*?) \| (\d+) \| (\d+) \|$", read(Path("docs/architecture.md")), re.MULTILINE)
    assert {name: (int(held), int(passed)) for name, held, passed in counts} == AT_MOST


def test_every_test_that_a_page_mentions_exists() -> None:
    tests = {name for path in (PROJECT / "tests").rglob("test_*.py") for name in (path.stem, *names_of(path))}
    mentioned = {name for page in PAGES for name in _TEST.findall(read(page))}
    assert mentioned - tests == set()


@pytest.mark.parametrize(
    "mention",
    ["`poll.py:no_such_function`", "`no_such_file.py`", "`poll.py:read_pages`, `no_such_name`", "`oll.py:read_pages`"],
)
def test_a_name_that_does_not_exist_would_be_noticed(mention: str) -> None:
    assert not all(is_in_the_code(file, name) for file, name in find_mentions(mention))


def read_prose(page: Path) -> str:
    """Return the text of a page without code."""
    return re.sub(r"`[^`]*`", "``", _FENCE.sub("", read(page)))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_page_uses_a_private_word(page: Path) -> None:
    assert _PRIVATE_WORDS.findall(read_prose(page)) == []
