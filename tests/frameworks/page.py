"""The snippets of docs/frameworks.md, which the tests run as they stand there."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"


def run_snippet(title: str, names: dict[str, Any]) -> None:
    """Run the snippet under a title, among ``names``, which get those that it makes."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    exec(compile(snippet, str(PAGE), "exec"), names)
