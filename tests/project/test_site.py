"""The site: code of its pages runs, the reference has every name, broken links are found.

`make docs` builds the site itself.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Run by several processes.
SPREAD = DOCS / "guide" / "many.md"
#: Takes packages of others; `make frameworks` runs it.
FRAMEWORKS = DOCS / "frameworks.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code(page: Path) -> str:
    """The blocks of a page as one program, each line where it stands in the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * len(text.splitlines())
    for block in FENCE.finditer(text):
        first = text[: block.start(1)].count("\n")
        for i, line in enumerate(block[1].splitlines()):
            lines[first + i] = line
    return "\n".join(lines)


PAGES = {
    str(page.relative_to(DOCS)): page
    for page in sorted(DOCS.rglob("*.md"))
    if page not in (SPREAD, FRAMEWORKS)
    and page.parent.name != "methods"
    and FENCE.search(page.read_text())
}


def test_pages_with_code() -> None:
    guide = {f"guide/{name}.md" for name in ("layer", "model", "llm", "training", "export")}
    assert guide | {"index.md", "start.md", "faq.md", "api/index.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page: str) -> None:
    if "torch.onnx" in code(PAGES[page]):
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code(PAGES[page]), str(PAGES[page]), "exec"), names)


def test_code_runs_in_two_processes(tmp_path: Path) -> None:
    (command,) = re.findall(r"^torchrun (.*) many.py$", SPREAD.read_text(), re.MULTILINE)
    program = tmp_path / "many.py"
    # Modules under fully_shard leave gloo's threads behind, which may abort an interpreter that
    # ends (pytorch/pytorch#190489).
    program.write_text(f"{code(SPREAD)}\nimport os\nos._exit(0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *command.split(), program],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def documented() -> list[str]:
    found = []
    for page in sorted((DOCS / "api").glob("*.md")):
        text = page.read_text()
        module = re.search(r"^\.\. currentmodule:: fastprune\.?(.*)$", text, re.MULTILINE)
        prefix = f"{module[1]}." if module and module[1] else ""
        found += [
            prefix + name
            for name in re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.MULTILINE)
        ]
    return found


def test_reference_has_every_name_once() -> None:
    public = [name for name in fastprune.__all__ if name != "ops"]
    public += [f"ops.{name}" for name in fastprune.ops.__all__]
    assert sorted(documented()) == sorted(public)


def test_tools_are_those_of_the_extra() -> None:
    (tools,) = re.findall(r"^DOCS_TOOLS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (extra,) = re.findall(r"^docs = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert tools.split() == re.findall(r'"(.*?)"', extra)


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "scripts/check_links.py")
    assert spec is not None and spec.loader is not None
    check_links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_links)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.html").write_text('<p id="here">')
    right = '<a href="in/b.html#here"><a href="#top"><p id="top"><a href="https://there.test/x">'
    (tmp_path / "a.html").write_text(right)
    assert check_links.broken(tmp_path) == []
    (tmp_path / "a.html").write_text(right + '<a href="c.html"><img src="in/b.html#gone">')
    assert check_links.broken(tmp_path) == [
        "a.html: c.html: no such file",
        "a.html: in/b.html#gone: no such place",
    ]
