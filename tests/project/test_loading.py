"""Without its compiled part, or with one that does not fit, fastprune says what to do."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import fastprune

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def error(folder: Path) -> str:
    """What `import fastprune` says, with the package of this folder."""
    done = subprocess.run(
        [sys.executable, "-c", "import fastprune"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "circular" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastprune")
    return last


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy without the compiled part."""
    package = tmp_path / "fastprune"
    where = Path(fastprune.__file__).parent
    shutil.copytree(where, package, ignore=shutil.ignore_patterns("_C*.so", "__pycache__"))
    return package


def test_missing(package: Path) -> None:
    said = error(package.parent)
    assert f"expected to be {package / '_C'}{SUFFIX}, is missing" in said
    assert "pip install --no-build-isolation ." in said


def test_source_folder(tmp_path: Path, package: Path) -> None:
    shutil.copytree(package, tmp_path / "checkout" / "python" / "fastprune")
    (tmp_path / "checkout" / "csrc").mkdir()
    (tmp_path / "checkout" / "csrc" / "bindings.cpp").touch()
    said = error(tmp_path / "checkout" / "python")
    assert "was imported from its source folder" in said and "run Python from another" in said
    assert f"pip install --no-build-isolation {tmp_path / 'checkout'}" in said


def test_of_another_python(package: Path) -> None:
    (package / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    said = error(package.parent)
    assert f"another Python: expected _C{SUFFIX}, got _C.cpython-27-x86_64-linux-gnu.so" in said


@pytest.mark.skipif(sys.platform != "linux", reason="names of symbols")
def test_of_another_torch(package: Path) -> None:
    compiled = next(Path(fastprune.__file__).parent.glob(f"_C{SUFFIX}"))
    code = compiled.read_bytes()
    assert b"_ZN2at4_ops" in code
    (package / compiled.name).write_bytes(code.replace(b"_ZN2at4_ops", b"_ZN2at4_opt"))
    said = error(package.parent)
    assert f"does not fit this torch, {torch.__version__}: it was built for another" in said
    assert "undefined symbol: _ZN2at4_opt" in said


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    root = ROOT / "python"
    found = {".".join(f.parent.relative_to(root).parts) for f in root.rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == found
    assert project["project"]["scripts"] == {"fastprune": "fastprune.cli:main"}
