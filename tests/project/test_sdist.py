"""The sdist holds the repository, and setup.py says in a sentence what a tree lacks."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_sdist(tree: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    command += ["--skip-dependency-check", "--outdir", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = out.glob("*.tar.gz")
    return made


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, made an sdist and unpacked elsewhere."""
    folder = tmp_path_factory.mktemp("sdist")
    for file in tracked():
        to = folder / "tree" / file
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, to)
    with tarfile.open(build_sdist(folder / "tree", folder / "out")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    return root


def test_every_file_is_there(unpacked: Path) -> None:
    missing = [file for file in tracked() if not (unpacked / file).exists()]
    assert missing == []
    assert any(unpacked.rglob("*.cu"))
    assert "fastprune: building" in setup(unpacked)


def setup(tree: Path) -> str:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("csrc/cpu/elementwise/masked_mul.cpp", "it lacks csrc/cpu/elementwise/masked_mul.cpp"),
        ("csrc/cuda/util/tensor_list.cu", "it lacks csrc/cuda/util/tensor_list.cu"),
        ("csrc/common/selection.h", "it lacks csrc/common/selection.h"),
    ],
)
def test_an_sdist_that_lost_a_file(unpacked: Path, file: str, said: str) -> None:
    whole = (unpacked / file).read_bytes()
    (unpacked / file).unlink()
    try:
        assert setup(unpacked).strip().endswith(said)
    finally:
        (unpacked / file).write_bytes(whole)


def test_a_checkout_without_a_kernel(unpacked: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(unpacked, tree)
    (tree / "PKG-INFO").unlink()
    (tree / "csrc/cpu/elementwise/combine_masks.cpp").unlink()
    said = setup(tree).strip()
    assert said.endswith("csrc/cpu lacks the .cpp file with the kernel of combine_masks")
