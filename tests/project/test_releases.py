"""What is published is described in one place, and the workflows call what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastprune

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAML = [*WORKFLOWS, *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))]
YAML += [ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml", ROOT / ".github/dependabot.yml"]
NAMES = [path.name for path in WORKFLOWS]

# A torch that fits, and a native part that is there, of another torch.
OTHER_TORCH = """
import torch
torch.__version__ = "2.99.0+cpu"
import fastprune
"""


def targets() -> set[str]:
    """Of the Makefile, those of test-torch-* by their names."""
    listed = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    names = re.search(r"^TEST_TORCH := (.*)$", MAKEFILE, re.MULTILINE)
    assert listed and names
    return {*listed[1].replace("$(TEST_TORCH)", names[1]).split()}


def test_workflows_are_there() -> None:
    assert NAMES == ["ci.yml", "wheels.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_make_targets_of_workflows_exist(path: Path) -> None:
    text = path.read_text()
    versions = re.findall(r'torch: "([\d.]+)", exact', text)
    called: set[str] = set()
    runs = "\n".join(re.findall(r"\brun: (.*)", text))
    for name in re.findall(r"\bmake ([a-z](?:\$\{\{ \S+ \}\}|[\w.-])*)", runs):
        called |= {re.sub(r"\$\{\{.*\}\}", version, name) for version in versions or [""]}
    assert called and called <= targets()


def test_actions_are_commits_and_the_same_everywhere() -> None:
    """Tags and branches move; dependabot.yml has them renewed."""
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (.+)", path.read_text())}
    pinned = [re.fullmatch(r"([\w/-]+)@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in used]
    assert used and None not in pinned
    assert len({match[1] for match in pinned if match}) == len(used)
    renewed = (ROOT / ".github" / "dependabot.yml").read_text()
    assert "package-ecosystem: github-actions" in renewed


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_scripts_of_workflows_exist(path: Path) -> None:
    configured = path.read_text() + (ROOT / "pyproject.toml").read_text()
    scripts = re.findall(r"\bscripts/[\w.]+", configured)
    assert scripts and all((ROOT / script).exists() for script in scripts)


def test_the_torch_of_each_target() -> None:
    """CI runs them all; wheels are built for them all."""
    given = dict(re.findall(r"^TORCH_([\d.]+) := torch==(\S+)$", MAKEFILE, re.MULTILINE))
    (names,) = re.findall(r"^TEST_TORCH := (.*)$", MAKEFILE, re.MULTILINE)
    assert names.split() == [f"test-torch-{name}" for name in given]
    ci, wheels = (path.read_text() for path in WORKFLOWS)
    assert dict(re.findall(r'torch: "([\d.]+)", exact: "([\d.]+)"', ci)) == given
    (matrix,) = re.findall(r"torch: \[(.*)\]", wheels)
    assert re.findall(r"[\d.]+", matrix) == list(given.values())
    for name, default in re.findall(
        r"^((?:CUDA_)?TORCH) \?= torch==(\S+)$", MAKEFILE, re.MULTILINE
    ):
        assert default in given.values(), name


def test_environments_of_their_own() -> None:
    command = ["make", "-n", "-C", str(ROOT), "test-torch-2.9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("there is no make")
    assert ".venv-torch-2.9/bin/python" in done.stdout
    assert ".venv/" not in done.stdout


def test_pythons_of_the_wheels() -> None:
    listed = {
        name.rpartition(" ")[2]
        for name in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", name)
    }
    built = re.findall(r'"cp3(\d+)"', WORKFLOWS[1].read_text())
    assert listed == {f"3.{minor}" for minor in built}
    assert PROJECT["project"]["requires-python"] == f">=3.{min(map(int, built))}"


def test_version_is_written_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    holders = [
        path.name
        for path in [*(ROOT / "python").rglob("*.py"), ROOT / "setup.py", ROOT / "CITATION.cff"]
        if f'"{fastprune.__version__}"' in path.read_text()
    ]
    assert holders == ["_version.py"]


def test_extras_are_what_make_installs() -> None:
    """The same requirements, whichever way the tools come."""
    extras = PROJECT["project"]["optional-dependencies"]
    (tools,) = re.findall(r"^LINT_TOOLS := (.*)$", MAKEFILE, re.MULTILINE)
    assert tools.split() == extras["lint"]
    assert {"cli", "plot", "docs", "bench", "test"} <= set(extras)


@pytest.mark.parametrize("path", YAML, ids=[path.name for path in YAML])
def test_yaml(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_built_for_another_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_TORCH], capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastprune was built for torch 2.")
    assert "this is 2.99.0+cpu. Build it anew with: pip install" in last
