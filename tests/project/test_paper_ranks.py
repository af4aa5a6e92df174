"""The table of docs/design.md about many processes is that of scripts/paper_ranks.py."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_table_in_the_docs() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "paper_ranks.py"))["rows"]()
    assert "\n".join(made) in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
