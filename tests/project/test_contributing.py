"""CONTRIBUTING.md's recipes, each followed in a temporary copy."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import fastprune
from cuda_on_host import build
from project.flip_mask import edits

ROOT = Path(__file__).resolve().parents[2]


def section(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no section {title!r}"
    return found[1]


def code(text: str, language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


def changed(before: Path, after: Path, folder: str = "") -> list[str]:
    """The files that differ between two trees, or are in one of them alone, as paths in folder."""
    here, there = (
        {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
        for root in (before, after)
    )
    names = {name for name in here | there if "__pycache__" not in name}
    both = here & there
    return sorted(
        str(Path(folder, name))
        for name in names
        if name not in both or not filecmp.cmp(before / name, after / name, shallow=False)
    )


def test_files_of_kernels_are_short() -> None:
    assert "at most 300\nlines" in section("Architecture")
    files = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")]
    assert len(files) > 50
    assert not [p.name for p in files if len(p.read_text().splitlines()) > 300]


def test_every_file_of_the_package_is_in_the_table() -> None:
    text = section("Architecture")
    files = [p.name for p in (ROOT / "python/fastprune").glob("*.py") if p.name[0] != "_"]
    assert len(files) > 40
    assert not [name for name in files if f"{name}`" not in text]


USE = """
import torch
from torch import nn

import fastprune as prune

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
net(torch.randn(5, 8)).square().sum().backward()
scores = [(m.weight * m.weight.grad).abs().detach().flatten() for m in net]

def lowest(scores, count):
    return torch.ones(len(scores)).index_fill(0, scores.argsort(stable=True)[:count], 0)

alone = nn.Linear(8, 16)
alone.load_state_dict(net[0].state_dict())
alone.weight.grad = net[0].weight.grad
prune.Taylor.apply(alone, "weight", 0.25)
assert torch.equal(alone.weight_mask.flatten(), lowest(scores[0], 32))
prune.Taylor.apply(alone, "weight", 10)
assert torch.equal(alone.weight_mask.flatten(), lowest(scores[0], 42))
prune.global_unstructured([(m, "weight") for m in net], prune.Taylor, amount=50)
masks = torch.cat([m.weight_mask.flatten() for m in net])
assert torch.equal(masks, lowest(torch.cat(scores), 50))
assert "Taylor" in prune.__all__
"""


def test_adding_a_method(tmp_path: Path) -> None:
    package = Path(fastprune.__file__).parent
    copy = tmp_path / "fastprune"
    shutil.copytree(package, copy)
    with (copy / "methods.py").open("a") as methods:
        methods.write("\n\n" + code(section("Adding a method"), "python"))
    assert changed(package, copy) == ["methods.py"]
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def copy_sources(to: Path) -> None:
    for folder in ("csrc", "python", "tests"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    # Objects of unchanged kernels are found there by their content.
    (to / "build").mkdir()
    (to / "build" / "cuda_on_host").symlink_to(build.FOLDER)


def add_operator(tree: Path) -> None:
    for name, path in edits.NEW.items():
        shutil.copy(ROOT / "tests" / "project" / "flip_mask" / name, tree / path)
    for name, replacements in edits.CHANGED.items():
        text = (tree / name).read_text()
        for old, new in replacements:
            assert text.count(old) == 1, f"{name}: {old!r}"
            text = text.replace(old, new)
        (tree / name).write_text(text)


def objects() -> dict[str, Path]:
    """What the build of this checkout compiled, by the source's path in csrc.

    That of `make test`, or else of pip.
    """
    made = ROOT / "build" / Path(sys.prefix).name.removeprefix(".") / "objects"
    folder = made if made.exists() else ROOT / "build" / f"torch-{torch.__version__}"
    found = {}
    units = {path: path.read_text() for path in folder.glob("temp*/together/**/*.cpp")}
    for source in (ROOT / "csrc").rglob("*.cpp"):
        path = str(source.relative_to(ROOT / "csrc"))
        unit = next((unit for unit, text in units.items() if f'"{path}"' in text), None)
        name = f"csrc/{path}" if unit is None else f"together/{str(unit).split('/together/')[1]}"
        compiled = list(folder.rglob(str(Path(name).with_suffix(".o"))))
        assert unit is None or compiled, f"{unit} was not compiled"
        if len(compiled) != 1 or compiled[0].stat().st_mtime < source.stat().st_mtime:
            pytest.skip("links with the objects of a build in this checkout: make test")
        found[path] = compiled[0]
    return found


def compile_and_link(tree: Path, library: Path) -> None:
    """The native part of a copy, of which only what changed is compiled."""
    linked = objects()
    compiler = build.compiler_with_torch(build.Variant())
    changed_sources = [p for p in (*edits.CHANGED, *edits.NEW.values()) if p.endswith(".cpp")]
    for source in changed_sources:
        path = source.removeprefix("csrc/")
        compiled = linked.get(path)
        together = [p for p, o in linked.items() if o == compiled] or [path]
        unit = tree / f"{Path(path).stem}_and_others.cpp"
        unit.write_text("".join(f'#include "{p}"\n' for p in together))
        linked |= dict.fromkeys(together, unit.with_suffix(".o"))
        command = [*compiler, f"-I{tree / 'csrc'}", "-c", str(unit)]
        subprocess.run([*command, "-o", str(unit.with_suffix(".o"))], check=True)
    paths = [f"-L{path}" for path in cpp_extension.library_paths()]
    libraries = ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python", "-fopenmp"]
    objects_once = map(str, sorted(set(linked.values())))
    command = [compiler[0], "-shared", *objects_once, *paths, *libraries]
    subprocess.run([*command, "-o", str(library)], check=True)


def test_adding_an_operator(tmp_path: Path) -> None:
    if fastprune._C.build_info()["cuda"]:
        pytest.skip("links with the objects of a build without CUDA")
    tree = tmp_path / "tree"
    copy_sources(tree)
    add_operator(tree)
    places = changed(ROOT / "csrc", tree / "csrc", "csrc")
    places += changed(ROOT / "python", tree / "python", "python")
    places += changed(ROOT / "tests", tree / "tests", "tests")
    told = re.findall(r"^\d\. `([^`]+)`", section("Adding an operator"), re.MULTILINE)
    assert places == sorted(told)
    assert len(places) <= 9
    native = next(Path(fastprune.__file__).parent.glob("_C.*.so"))
    compile_and_link(tree, tree / "python" / "fastprune" / native.name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "tests/ops/elementwise/test_flip_mask.py"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for target in ("cpu", "cuda_on_host"):
        assert re.search(rf"test_dtypes\[{target}-.* PASSED", done.stdout), done.stdout
