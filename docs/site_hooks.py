"""Hooks of MkDocs that make a site of these pages as they are read in the repository.

- The navigation is what the start page lists: its headings are the sections, and the first link of each row is a page.
- Files outside docs/ that a page links to are on the site too, under `project/`: Markdown as pages, all others as text.
- Lists may be nested as GitHub has them, by two or three spaces; Python-Markdown wants four.
- A page that would load something from another host fails the strict build.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FENCE = re.compile(r"^( *)(```+)[^`\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`+[^`\n]*`+")
_LINK = re.compile(r"(\]\()([^)\s:]+)(\))|(src=\")([^\":]+)(\")")
_ENTRY = re.compile(r"^(?:\| |- )\[([^\]]+)\]\(([^)#\s]+)\)", re.MULTILINE)
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
_LOG = logging.getLogger("mkdocs.hooks.site")
_OUTSIDE = "project"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation from the start page."""
    docs = Path(config.docs_dir)
    _, *sections = re.split(r"^## ", (docs / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    navigation: list[dict[str, Any]] = [{"Start": "README.md"}]
    for section in sections:
        entries = [{name: _list_pages(docs, target)} for name, target in _ENTRY.findall(section)]
        if entries:
            navigation.append({section.partition("\n")[0]: entries})
    config.nav = navigation
    return config


def _list_pages(docs: Path, target: str) -> str | list[str]:
    """Return a page, or with the index of a folder the pages of that folder."""
    if not target.endswith("/README.md") or target.startswith(".."):
        return _place(posixpath.normpath(posixpath.join("docs", target)))
    others = sorted(path.relative_to(docs).as_posix() for path in (docs / target).parent.glob("*.md"))
    return [target, *(page for page in others if page != target)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, and those that these link to."""
    project = Path(config.docs_dir).parent
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for path in _find_targets(project, page):
            place = _place(path)
            if path.startswith("docs/") or not (project / path).is_file() or place in files.src_uris:
                continue
            files.append(File.generated(config, place, abs_src_path=str(project / path)))
            if path.endswith(".md"):
                pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has their targets, and indent lists as Python-Markdown wants them."""
    if page.is_homepage:
        # Its own list of pages is better than one with itself alone.
        page.meta["hide"] = ["navigation"]
    project = Path(config.docs_dir).parent
    source = Path(str(page.file.abs_src_path)).relative_to(project).as_posix()

    def point(link: re.Match[str]) -> str:
        before, target, after = (part for part in link.groups() if part is not None)
        path, mark, anchor = target.partition("#")
        if not path:
            return link[0]
        place = posixpath.relpath(_place(_resolve(project, source, path)), posixpath.dirname(page.file.src_uri))
        return f"{before}{place}{mark}{anchor}{after}"

    return "".join(
        part if is_code else _LINK.sub(point, part) for part, is_code in _split_code(_indent_lists(markdown))
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Look for what is loaded from another host, and name the language of a translated page."""
    for address in _LOADED.findall(output):
        _LOG.warning("%s loads %s from another host", page.file.src_uri, address)
    if page.file.src_uri.endswith(".vi.md"):
        return output.replace('<html lang="en"', '<html lang="vi"', 1)
    return output


def _find_targets(project: Path, page: str) -> set[str]:
    """Return the paths inside the project that a page links to."""
    text = (project / page).read_text(encoding="utf-8")
    prose = "".join(part for part, is_code in _split_code(text) if not is_code)
    targets = {(link[2] or link[5]).partition("#")[0] for link in _LINK.finditer(prose)}
    return {_resolve(project, page, target) for target in targets if target}


def _resolve(project: Path, page: str, target: str) -> str:
    """Return the path inside the project of a link's target; of a folder, that of its index."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return f"{path}/README.md" if (project / path).is_dir() else path


def _place(path: str) -> str:
    """Return where the site has a file of the project."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    # A name that begins with a dot would be left out, and what is no text would be downloaded.
    shown = "/".join(part.lstrip(".") or part for part in path.split("/"))
    return f"{_OUTSIDE}/{shown}" if shown.endswith((".md", ".svg", ".png")) else f"{_OUTSIDE}/{shown}.txt"


def _split_code(text: str) -> list[tuple[str, bool]]:
    """Cut a text into prose and code: blocks, and what is between backticks."""
    parts: list[tuple[str, bool]] = []
    at = 0
    for block in _FENCE.finditer(text):
        parts += [*_split_inline(text[at : block.start()]), (block[0], True)]
        at = block.end()
    return [*parts, *_split_inline(text[at:])]


def _split_inline(text: str) -> list[tuple[str, bool]]:
    parts: list[tuple[str, bool]] = []
    at = 0
    for code in _CODE.finditer(text):
        parts += [(text[at : code.start()], False), (code[0], True)]
        at = code.end()
    return [*parts, (text[at:], False)]


def _indent_lists(text: str) -> str:
    """Indent what is inside of a list by four spaces a level."""
    lines = []
    at = 0
    for block in _FENCE.finditer(text):
        lines.append(re.sub(r"^ +(?=\S)", _deepen, text[at : block.start()], flags=re.MULTILINE))
        more = len(_deepen(block[1])) - len(block[1])
        lines.append(re.sub(r"^(?=.)", " " * more, block[0], flags=re.MULTILINE))
        at = block.end()
    lines.append(re.sub(r"^ +(?=\S)", _deepen, text[at:], flags=re.MULTILINE))
    return "".join(lines)


def _deepen(indent: re.Match[str] | str) -> str:
    return "    " * (len(indent if isinstance(indent, str) else indent[0]) // 2)
