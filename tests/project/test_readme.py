"""What the README says is so: its examples run, its badges are true, figures are measured ones."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune as prune
from fastprune import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the examples leave behind, all run as one program."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("readme") / "examples.py"
    file.write_text(
        "".join(re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)
        return {"folder": file.parent, **runpy.run_path(str(file))}


def test_example_ends_as_its_comments_say(ran: dict[str, Any]) -> None:
    up, down = ran["up"], ran["down"]
    assert isinstance(up.weight, torch.nn.Parameter)
    assert not list(up.named_buffers())
    zeros, active = (up.weight == 0).sum(), up.weight.numel() // 4
    assert zeros == 3 * active  # 75%: the global pruning took none
    mask = down.weight_mask
    assert (mask == 0).all(dim=1).sum() == 16
    left = mask.numel() - 16 * mask.shape[1]
    assert mask.sum() == left - round(0.3 * (active + left))
    assert down.weight_orig.grad is not None


def test_saved_model_loads(ran: dict[str, Any]) -> None:
    assert "prune.attach(fresh, state).load_state_dict(state)" in README
    state = torch.load(ran["folder"] / "pruned.pt")
    sizes = [(768, 3072), (3072, 768)]
    fresh = torch.nn.Sequential(
        torch.nn.Linear(*sizes[0]), torch.nn.GELU(), torch.nn.Linear(*sizes[1])
    )
    prune.attach(fresh, state).load_state_dict(state)
    x = torch.randn(2, 768)
    assert torch.equal(fresh(x), ran["model"](x))


def test_example_of_own_scores(ran: dict[str, Any]) -> None:
    layer = ran["layer"]
    scores = (layer.weight_orig * layer.weight_orig.grad).abs()
    kept = layer.weight_mask == 1
    assert kept.sum() == kept.numel() // 2
    assert scores[kept].min() >= scores[~kept].max()


def test_badges() -> None:
    badges = dict(re.findall(r"badge/(\w+)-(?:%E2%89%A5%20)?([\w.]+)-", README))
    metadata = (ROOT / "pyproject.toml").read_text()
    (python,) = re.findall(r'^requires-python = ">=([\d.]+)"$', metadata, re.MULTILINE)
    (oldest,) = re.findall(r"^OLDEST_TORCH = \((\d+), (\d+)\)", SETUP, re.MULTILINE)
    assert badges == {"python": python, "pytorch": ".".join(oldest), "licence": "MIT"}
    assert (ROOT / "LICENSE").read_text().startswith("MIT")


def commands() -> list[str]:
    """The command lines of ours on the pages, without their comments."""
    pages = ("README.md", "docs/command_line.md", "docs/install.md", "docs/start.md")
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```bash\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)
    ]
    found = re.findall(r"^(?:python -m )?fastprune\b.*$", "".join(blocks), re.MULTILINE)
    return sorted({" ".join(shlex.split(line, comments=True)) for line in found})


@pytest.mark.parametrize("line", commands())
def test_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if " prune " in line:
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file({"a.weight": torch.randn(8, 16)}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    _, _, arguments = line.removeprefix("python -m ").partition(" ")
    try:
        status = cli.main(arguments.split())
    except SystemExit as ended:  # as --version
        status = ended.code
    assert status == 0
    assert (tmp_path / "pruned.safetensors").exists() == (" prune " in line)


def test_there_are_commands() -> None:
    assert len(commands()) >= 4


def cases(file: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in (RESULTS / file).read_text().splitlines()[1:]]
    return {case["name"]: case for case in lines if "contenders" in case}


def speedups_up_to_a_million(variant: str) -> tuple[str, str]:
    """The lowest and the highest, as the README writes them."""
    found = [
        case["speedup"]
        for name, case in cases("amd-epyc-0.1.0.jsonl").items()
        if name.startswith(f"cpu/masked_mul/{variant}/float32/") and case["numel"] <= 1 << 20
    ]
    assert len(found) >= 3
    return f"{min(found):.2f}", f"{max(found):.2f}"


def milliseconds(file: str, name: str) -> str:
    return f"{cases(file)[name]['contenders']['fastprune']['median'] * 1e3:.1f}"


def test_figures_of_the_sentences() -> None:
    text = " ".join(FIGURES.split())
    low, high = speedups_up_to_a_million("forward")
    assert f"up to 1M entries: it runs at {low} to {high} of its speed" in text
    low, high = speedups_up_to_a_million("backward")
    assert f"and the backward at {low} to {high}." in text
    first = "cpu/local/dense/float32/16777216/normal/50%"
    again = "cpu/iterative/half-pruned/float32/16777216/normal/50%"
    small, huge = "amd-epyc-0.1.0.jsonl", "amd-epyc-huge-pages-0.1.0.jsonl"
    for name, what in ((first, "then takes"), (again, "a repeated one")):
        pair = milliseconds(huge, name), milliseconds(small, name)
        assert f"{what} {pair[0]} ms instead of {pair[1]} ms" in text
    cubes = [
        cases(small)[f"cpu/structured/cubes-{dim}/float32/4194304/normal/50%"]
        for dim in ("dim0", "last-dim")
    ]
    first, last = (f"{case['speedup']:.1f}" for case in cubes)
    assert f"it runs at {first} (first dim) and {last} times upstream's speed (last dim)" in text
    first, last = (f"{case['contenders']['fastprune']['of_floor']:.0f}" for case in cubes)
    assert f"{first} and {last} times as long as the floor" in text


LIFE = {
    "a forward": r"cpu/life/eval-.*",
    "a training step with SGD or fused AdamW": r"cpu/life/train-(sgd|adamw)-batch.*",
    "a training step with AdamW, not fused": r"cpu/life/train-adamw-unfused-.*",
}


def of_a_dense_model(pattern: str, contender: str) -> str:
    """The lowest and the highest time of a pruned model over a dense one's."""
    found = [
        case["contenders"][contender]["of_floor"]
        for name, case in cases("amd-epyc-life-0.1.0.jsonl").items()
        if re.fullmatch(pattern, name)
    ]
    assert len(found) >= 6
    return f"{min(found):.2f} to {max(found):.2f}"


@pytest.mark.parametrize("what", LIFE)
def test_figures_of_a_pruned_model(what: str) -> None:
    forms = ("fastprune", "ordinary form", "upstream")
    row = " | ".join(of_a_dense_model(LIFE[what], form) for form in forms)
    assert f"\n| {what} | {row} |\n" in FIGURES


def test_figures_of_a_dense_model_beside_itself() -> None:
    again = of_a_dense_model(".*", "dense again")
    assert f"A model beside its own copy took {again} times as long" in " ".join(FIGURES.split())


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([\w./-]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
