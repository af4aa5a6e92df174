"""The environments that the Makefile sets up, and the files that its pytest takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_is_in_a_folder_that_pytest_takes() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^testpaths = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    folders = re.findall(r'"(\S+)"', listed)
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    assert files
    assert [str(f) for f in files if not any(f.is_relative_to(folder) for folder in folders)] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_environment_with_the_torch_that_is_there(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("csrc", "python", "tests"):
        (tmp_path / folder).mkdir()
    command = ["make", ".venv/.torch", "SYSTEM_TORCH=1", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    asked = "import sys, torch; print(sys.prefix, torch.__file__, sep='\\n')"
    prefix, file = subprocess.run(
        [str(tmp_path / ".venv" / "bin" / "python"), "-c", asked],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert Path(prefix).samefile(tmp_path / ".venv")
    assert file == torch.__file__
