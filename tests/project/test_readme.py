"""What the README says is so: its examples run, and figures in its sentences are measured ones."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the examples leave behind, all run as one program."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("readme") / "examples.py"
    file.write_text(
        "".join(re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
    )
    return runpy.run_path(str(file))


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


def test_example_of_own_scores(ran: dict[str, Any]) -> None:
    layer = ran["layer"]
    scores = (layer.weight_orig * layer.weight_orig.grad).abs()
    kept = layer.weight_mask == 1
    assert kept.sum() == kept.numel() // 2
    assert scores[kept].min() >= scores[~kept].max()
    lowest = layer.bias_orig.topk(2, largest=False).indices
    assert (layer.bias_mask == 0).nonzero().flatten().tolist() == sorted(lowest.tolist())


def test_example_of_nm(ran: dict[str, Any]) -> None:
    sparse, norms = ran["sparse"], ran["norms"]
    lowest = (sparse.weight_orig.abs() * norms).view(10, -1, 4).topk(2, largest=False).indices
    assert not sparse.weight_mask.view(10, -1, 4).gather(2, lowest).any()
    assert sparse.weight_mask.sum() == sparse.weight_mask.numel() // 2


def test_example_of_rows(ran: dict[str, Any]) -> None:
    by_row, norms = ran["by_row"], ran["norms"]
    lowest = (by_row.weight_orig.abs() * norms).topk(384, largest=False).indices
    assert not by_row.weight_mask.gather(1, lowest).any()
    assert by_row.weight_mask.sum() == by_row.weight_mask.numel() // 2


def test_example_of_reports(ran: dict[str, Any]) -> None:
    mixed, found = ran["mixed"], ran["found"]
    assert found["1.weight"].patterns == ("2:4 along dim 1",)
    pruned = sum(int((layer.weight_mask == 0).sum()) for layer in mixed)
    assert found.total.sparsity == pruned / sum(p.numel() for p in mixed.parameters())


def test_example_of_checkpoints(ran: dict[str, Any]) -> None:
    layer, fresh, dense = ran["layer"], ran["fresh"], ran["dense"]
    assert torch.equal(fresh.weight_mask, layer.weight_mask)
    assert not fresh.weight_orig[fresh.weight_mask == 0].any()  # after a step in place
    assert not torch.equal(fresh.weight_orig, layer.weight_orig * layer.weight_mask)
    assert sorted(dense) == ["bias", "weight"]
    assert torch.equal(dense["weight"], layer.weight_orig * layer.weight_mask)


def test_example_of_the_operators(ran: dict[str, Any]) -> None:
    scores, mask = ran["scores"], ran["mask"]
    assert mask.dtype == torch.bool and (~mask).sum() == round(0.2 * scores.numel())
    assert scores[mask].min() >= scores[~mask].max()
    assert torch.equal(ran["pruned"], mask.to(scores.dtype) * scores)


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
    text = " ".join(README.split())
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


def of_a_dense_model(kind: str, contender: str) -> str:
    """The lowest and the highest time of a pruned model over a dense one's."""
    found = [
        case["contenders"][contender]["median"] / case["contenders"]["floor"]["median"]
        for name, case in cases("amd-epyc-0.1.0.jsonl").items()
        if name.startswith(f"cpu/life/{kind}-") and "unfused" not in name
    ]
    return f"{min(found):.2f} to {max(found):.2f}"


def test_figures_of_a_pruned_model() -> None:
    text = " ".join(README.split())
    for kind, what in (("eval", "a forward"), ("train", "a training step")):
        ours, ordinary, theirs = (
            of_a_dense_model(kind, name) for name in ("fastprune", "ordinary form", "upstream")
        )
        first = "inside of `cached` took" if kind == "eval" else "in place"
        assert f"{what} {first} {ours} times" in text
        second = "times as long in the ordinary form" if kind == "eval" else ""
        assert re.search(rf"{what} (took )?{ordinary} {second} ?and {theirs} times", text)


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([\w./-]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
