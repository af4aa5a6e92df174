"""The benchmark suite works, and what the READMEs say about speed is what a result file says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
READMES = (ROOT / "README.md", BENCHMARKS / "README.md")
CASE = "cpu/local/dense/float32/10000/normal/50%"
CLAIM = re.compile(r"\d\s*(?:x|×|times)\s+(?:faster|as fast)")  # noqa: RUF001
REGION = re.compile(r"^<!-- figures:.*?^<!-- /figures -->$", re.DOTALL | re.MULTILINE)


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    what = [str(BENCHMARKS / name)] if name.endswith(".py") else ["-m", name]
    command = [sys.executable, *what, *map(str, arguments)]
    return subprocess.run(
        command, cwd=BENCHMARKS, capture_output=True, text=True, check=False, timeout=300
    )


def run_case(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("rich")
    return script("run.py", "--quick", "--device", "cpu", "--filter", f"^{CASE}$", *arguments)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "machine-1.json"
    done = run_case("--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def scaled(path: Path, factors: dict[str, float]) -> Path:
    """A copy of a result in which contenders took so many times as long."""
    content = json.loads(path.read_text())
    for case in content["cases"]:
        for name, factor in factors.items():
            case["contenders"][name]["median"] *= factor
    copy = path.with_name("scaled-1.json")
    copy.write_text(json.dumps(content))
    return copy


def compare(old: Path, new: Path, *arguments: object) -> tuple[int, str]:
    done = script("harness.compare", old, new, *arguments)
    return done.returncode, done.stdout


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def test_result_file(result: Path) -> None:
    content = json.loads(result.read_text())
    (case,) = content["cases"]
    assert case["name"] == CASE and not content["failed"]
    assert set(case["contenders"]) == {"fastprune", "upstream", "floor"}
    for timing in case["contenders"].values():
        assert timing["median"] > 0 and timing["samples"] >= 3 and timing["loops"] >= 1
    times = {name: timing["median"] for name, timing in case["contenders"].items()}
    assert case["bytes"] == 3 * 4 * 10_000
    assert case["speedup"] == pytest.approx(times["upstream"] / times["fastprune"], rel=1e-3)
    assert case["ratio_to_floor"] == pytest.approx(times["fastprune"] / times["floor"], rel=1e-3)
    assert content["machine"]["torch"] == torch.__version__


def test_no_change_against_itself(result: Path) -> None:
    code, text = compare(result, result, "--max-slowdown", 1.01)
    assert code == 0 and "0 slower, 0 faster" in text


def test_slowdown_is_reported(result: Path) -> None:
    slowed = scaled(result, {"fastprune": 10})
    code, text = compare(result, slowed, "--max-slowdown", 5)
    assert code == 1 and CASE in text and "1 slower" in text
    assert compare(result, slowed)[0] == 0  # nobody asked to fail
    assert compare(slowed, result, "--max-slowdown", 5)[0] == 0  # it got faster


@pytest.mark.parametrize(
    "factors",
    [
        {"fastprune": 10, "upstream": 10, "floor": 10},  # the machine is slower
        {"fastprune": 10, "floor": 10},  # something was in the way of this case
        {"floor": 10},
    ],
)
def test_drift_is_no_change(result: Path, factors: dict[str, float]) -> None:
    code, text = compare(result, scaled(result, factors), "--max-slowdown", 1.01)
    assert code == 0 and "0 slower, 0 faster" in text


def test_run_compares(result: Path) -> None:
    done = run_case("--compare", scaled(result, {"fastprune": 0.001}), "--max-slowdown", 5)
    assert done.returncode == 1 and "1 slower" in done.stdout


def test_plots(result: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run_case("--plot", tmp_path)
    assert done.returncode == 0 and (tmp_path / "cpu-local.png").stat().st_size > 0


@pytest.mark.parametrize("arguments", [("--filter", "nothing is called so"), ("--filter", "(")])
def test_nothing_to_do(arguments: tuple[str, ...]) -> None:
    pytest.importorskip("rich")
    done = script("run.py", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_figures_of_the_readmes_are_those_of_the_result_files() -> None:
    done = script("harness.report", "--check", *READMES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("readme", READMES, ids=["main", "benchmarks"])
def test_readme_claims_no_speed_beside_the_figures(readme: Path) -> None:
    claim = CLAIM.search(REGION.sub("", readme.read_text(encoding="utf-8")))
    assert claim is None, f"not from a result file: {claim[0] if claim else ''}"


def test_report_renews_regions(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"A\n<!-- figures: {result} selection=headline -->\n<!-- /figures -->\nB\n")
    assert script("harness.report", "--check", readme).returncode == 1
    assert script("harness.report", result, "--readme", readme).returncode == 0
    text = readme.read_text()
    assert text.startswith("A\n<!--") and text.endswith("-->\nB\n") and "l1_unstructured" in text
    assert script("harness.report", "--check", readme).returncode == 0
    readme.write_text(text.replace("| 10K", "| 11K"))
    assert script("harness.report", "--check", readme).returncode == 1


def test_report_moves_regions_to_the_new_version(result: Path, tmp_path: Path) -> None:
    newer = result.with_name("machine-2.json")
    newer.write_text(result.read_text())
    readme = tmp_path / "README.md"
    readme.write_text("Text\n")
    for path in (result, newer):
        assert script("harness.report", path, "--readme", readme).returncode == 0
    text = readme.read_text()
    assert str(newer) in text and str(result) not in text
    assert script("harness.report", "--check", readme).returncode == 0


def sorted_mask(scores: torch.Tensor, old: torch.Tensor, amount: float) -> torch.Tensor:
    active = (old == 1).nonzero().flatten()
    order = scores[active].abs().argsort(stable=True)
    mask = old.clone()
    mask[active[order[: round(amount * len(active))]]] = 0
    return mask


def test_check_of_a_selection(module: Callable[[str], ModuleType]) -> None:
    checks: Any = module("suite.checks")
    scores = torch.tensor([3.0, -1.0, 1.0, 2.0, 0.5, 1.0, 9.0, -1.0])
    old = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    right = sorted_mask(scores, old, 0.4)
    checks.check_selection([scores], [old], [right], 0.4)
    halves = [scores[:4], scores[4:]], [old[:4], old[4:]], [right[:4], right[4:]]
    checks.check_selection(*halves, 0.4)
    wrongs = {
        "too few": (1, 1.0),
        "too many": (0, 0.0),
        "an inactive entry came back": (4, 1.0),
        "neither 0 nor 1": (6, 0.5),
    }
    for what, (index, value) in wrongs.items():
        wrong = right.clone()
        wrong[index] = value
        with pytest.raises(checks.WrongResult):
            checks.check_selection([scores], [old], [wrong], 0.4)
            pytest.fail(what)
    for pruned, kept in ((7, 1), (0, 1)):  # the wrong one of equals, and a larger one
        wrong = right.clone()
        wrong[pruned], wrong[kept] = 0.0, 1.0
        with pytest.raises(checks.WrongResult):
            checks.check_selection([scores], [old], [wrong], 0.4)


def test_check_of_channels(module: Callable[[str], ModuleType]) -> None:
    checks: Any = module("suite.checks")
    norms = torch.tensor([2.0, 1.0, 3.0, 4.0], dtype=torch.float64)
    mask = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 4).contiguous()
    checks.check_channels(norms, mask, 0.5, 1)
    for channel in (0, 2):
        wrong = mask.clone()
        wrong[1, channel] = 1 - wrong[1, channel]
        with pytest.raises(checks.WrongResult):
            checks.check_channels(norms, wrong, 0.5, 1)
    with pytest.raises(checks.WrongResult):
        checks.check_channels(norms, mask.flip(1), 0.5, 1)


# Published parameters, less those that are no linear or convolution weight.
@pytest.mark.parametrize(
    ("model", "published", "others"),
    [
        ("resnet50", 25_557_032, 53_120 + 1_000),  # batch norms, output bias
        ("vit_b16", 86_567_656, 82_944 + 38_400 + 768 + 151_296 + 768 + 1_000),
        ("bert_base", 109_482_240, 23_837_184 + 12 * 9_984 + 768),  # embeddings, biases and norms
        ("llama_1b", 1_100_048_384, 32_000 * 2_048 + 45 * 2_048),  # embedding, norms
    ],
)
def test_model_shapes(
    module: Callable[[str], ModuleType], model: str, published: int, others: int
) -> None:
    shapes = getattr(module("suite.models"), model)()
    assert sum(torch.Size(shape).numel() for shape in shapes) == published - others


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_case_names_are_unique(module: Callable[[str], ModuleType], device: str) -> None:
    pytest.importorskip("numpy")
    names = [case.name for case in module("suite.cases").all_cases(device)]
    assert len(names) == len(set(names)) > 100
