"""PyTorch's own tests of pruning, with the module's name replaced.

The file is not ours and is not kept here: get test/nn/test_pruning.py of a release from
https://github.com/pytorch/pytorch and name it in PYTORCH_TEST_PRUNING.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = os.environ.get("PYTORCH_TEST_PRUNING")


@pytest.mark.skipif(
    SUITE is None,
    reason="PYTORCH_TEST_PRUNING does not name a copy of test/nn/test_pruning.py of "
    "https://github.com/pytorch/pytorch",
)
def test_upstream_suite(tmp_path: Path) -> None:
    assert SUITE is not None
    source = Path(SUITE).read_text()
    assert "torch.nn.utils.prune" in source
    renamed = "import fastprune\n" + source.replace("torch.nn.utils.prune", "fastprune")
    (tmp_path / "test_pruning.py").write_text(renamed)
    done = subprocess.run(
        [sys.executable, "test_pruning.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran, done.stderr
    assert int(ran.group(1)) > 30
    assert "skipped" not in done.stderr
