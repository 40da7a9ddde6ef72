"""A worker loads its modules before it forks: a process that is forked in the middle of an import waits for ever."""

import subprocess
import sys

LISTED = """
import ast, pathlib, sys
import syncctl
from syncctl.tasks.process import load_modules
load_modules()
root = pathlib.Path(syncctl.__file__).parent
for place in ("tasks", "wiring", "pipeline", "channels", "ledger", "partner", "sources", "archive"):
    for file in sorted((root / place).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("syncctl."):
                name = node.module
                if name not in sys.modules and not name.startswith("syncctl.tasks"):
                    print(file.relative_to(root), name)
"""


def test_no_module_is_left_to_be_imported_by_a_thread_of_the_worker() -> None:
    left = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True, timeout=120)
    assert left.stdout == ""
