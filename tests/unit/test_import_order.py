"""Every module of syncctl loads whichever module was loaded before it: none needs another to have come first."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import syncctl

ROOT = Path(syncctl.__file__).parent


def name_module(file: Path) -> str:
    """Return the name under which a file of the package is imported."""
    return ".".join(("syncctl", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def list_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Return the imports that run when the module of a syntax tree is loaded."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ImportFrom | ast.Import):
            yield each
        elif isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
            yield from (found for other in each.orelse for found in list_statements(other))
        elif not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from list_statements(each)


def list_loaded(statement: ast.stmt, modules: set[str]) -> Iterator[str]:
    """Return the modules of syncctl that an import needs, without the packages that hold them."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name in modules)
    elif isinstance(statement, ast.ImportFrom) and statement.module in modules:
        for alias in statement.names:
            inside = f"{statement.module}.{alias.name}"
            yield inside if inside in modules else statement.module


def test_no_modules_import_each_other_while_they_load() -> None:
    files = {name_module(file): file for file in ROOT.rglob("*.py")}
    modules = set(files)
    needs: dict[str, set[str]] = {}
    for name, file in files.items():
        found = {
            each
            for statement in list_statements(ast.parse(file.read_text(encoding="utf-8")))
            for each in list_loaded(statement, modules)
        }
        # A module's packages are loaded before it, and those of what it imports before that.
        holders = {".".join(each.split(".")[:depth]) for each in found for depth in range(1, each.count(".") + 1)}
        own = {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)}
        needs[name] = found | (holders - own - {name})
    assert "syncctl.ledger.ledger" in needs["syncctl.wiring.connections"] | needs["syncctl.celery_app"]
    # It raises a CycleError that names the modules.
    TopologicalSorter(needs).prepare()
