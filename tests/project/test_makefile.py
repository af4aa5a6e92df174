"""The environments that the Makefile sets up."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


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
