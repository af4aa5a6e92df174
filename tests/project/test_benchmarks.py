"""The benchmark suite works, and what the READMEs say about speed is what a result file says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
READMES = (ROOT / "README.md", BENCHMARKS / "README.md")
PLOT = ROOT / "docs" / "l1_unstructured.svg"
PLOTTED = "amd-epyc-0.1.0.jsonl"
CASE = "cpu/local/dense/float32/10000/normal/50%"
CLAIM = re.compile(r"\d\s*(?:x|×|times)\s+(?:faster|as fast)")  # noqa: RUF001
REGION = re.compile(r"^<!-- figures:.*?^<!-- /figures -->$", re.DOTALL | re.MULTILINE)


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def run_case(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("rich")
    return script("run.py", "--quick", "--device", "cpu", "--filter", f"^{CASE}$", *arguments)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "machine-1.jsonl"
    done = run_case("--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scaled(path: Path, factors: dict[str, float]) -> Path:
    """A copy of a result in which contenders took so many times as long."""
    header, *cases = lines_of(path)
    for case in cases:
        for name, factor in factors.items():
            case["contenders"][name]["median"] *= factor
    copy = path.with_name("scaled-1.jsonl")
    copy.write_text("".join(json.dumps(line) + "\n" for line in (header, *cases)))
    return copy


def compare(old: Path, new: Path, *arguments: object) -> tuple[int, str]:
    done = script("run.py", "--compare", old, new, *arguments)
    return done.returncode, done.stdout


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def test_result_file(result: Path) -> None:
    header, case = lines_of(result)
    assert case["name"] == CASE and not case["skipped"]
    assert set(case["contenders"]) == {"fastprune", "upstream", "floor"}
    for timing in case["contenders"].values():
        assert timing["median"] > 0 and timing["samples"] >= 3 and timing["loops"] >= 1
    times = {name: timing["median"] for name, timing in case["contenders"].items()}
    assert case["bytes"] == 3 * 4 * 10_000
    assert case["speedup"] == pytest.approx(times["upstream"] / times["fastprune"], rel=1e-3)
    assert case["ratio_to_floor"] == pytest.approx(times["fastprune"] / times["floor"], rel=1e-3)
    assert header["machine"]["torch"] == torch.__version__ and header["settings"]["quick"]


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


@pytest.fixture
def old_form(result: Path, tmp_path: Path) -> Path:
    """The result as version 0.1.0 wrote it, with a case that was skipped and one that failed."""
    header, *cases = lines_of(result)
    document = {
        "schema": 1,
        "machine": header["machine"],
        "settings": header["settings"],
        "cases": cases,
        "skipped": {"cpu/a": "too large"},
        "failed": {"cpu/b": "WrongResult: why"},
    }
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document, indent=1))
    return path


def test_a_result_of_the_older_form_is_refused(old_form: Path, result: Path) -> None:
    done = script("run.py", "--compare", old_form, result)
    assert done.returncode == 2
    assert f"benchmarks/convert.py {old_form}" in done.stderr


def test_conversion_keeps_everything(
    old_form: Path, result: Path, module: Callable[[str], ModuleType]
) -> None:
    assert script("convert.py", old_form).returncode == 0
    old = json.loads(old_form.read_text())
    header, *lines = lines_of(old_form.with_suffix(".jsonl"))
    assert header == {"schema": 2, "machine": old["machine"], "settings": old["settings"]}
    assert lines == [
        *old["cases"],
        {"name": "cpu/a", "skipped": "too large"},
        {"name": "cpu/b", "failed": "WrongResult: why"},
    ]
    converted = module("harness.records").load(old_form.with_suffix(".jsonl"))
    assert converted.skipped == old["skipped"] and converted.failed == old["failed"]
    assert converted.records == module("harness.records").load(result).records


def test_no_other_file_is_a_result(tmp_path: Path, result: Path) -> None:
    for text in ("", "no JSON", '{"schema": 3}\n', "[]"):
        path = tmp_path / "other.jsonl"
        path.write_text(text)
        done = script("run.py", "--compare", path, result)
        assert done.returncode == 2 and "not a result file of schema 2" in done.stderr, text


def test_json_is_no_name_for_a_result(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    done = script("run.py", "--json", tmp_path / "result.json")
    assert done.returncode == 2 and "result.jsonl" in done.stderr


def test_committed_results_are_as_they_would_be_saved(
    module: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """One line a case, in the form of a run: so a rerun changes no line for its form alone."""
    records: Any = module("harness.records")
    paths = sorted((BENCHMARKS / "results").iterdir())
    assert paths
    for path in paths:
        records.save(records.load(path), tmp_path / path.name)
        kept, saved = lines_of(path), lines_of(tmp_path / path.name)
        assert len(kept) == len(saved)
        for before, after in zip(kept, saved, strict=True):
            derived = {key for key in after if isinstance(after[key], float)} - {"amount"}
            assert before.keys() == after.keys() and list(before) == list(after)
            assert {k: v for k, v in before.items() if k not in derived} == {
                k: v for k, v in after.items() if k not in derived
            }
            # Of medians to five digits, where the run divided those it had measured.
            for key in derived:
                assert before[key] == pytest.approx(after[key], rel=1e-4)


def test_plot_of_the_readme_is_that_of_the_result_file(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    done = script("report.py", BENCHMARKS / "results" / PLOTTED, "--plot", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == PLOT.read_bytes(), f"make it anew: report.py --plot {PLOT}"
    assert f"]({PLOT.relative_to(ROOT).as_posix()})" in READMES[0].read_text(encoding="utf-8")


def test_a_plot_takes_two_sizes(result: Path, tmp_path: Path) -> None:
    done = script("report.py", result, "--plot", tmp_path / "plot.svg")
    assert done.returncode == 1 and "at least two sizes" in done.stderr


def test_large_spreads_and_times_below_the_floor_are_explained(
    result: Path, module: Callable[[str], ModuleType]
) -> None:
    records: Any = module("harness.records")
    tables: Any = module("harness.tables")

    def table(**changes: float) -> Any:
        loaded = records.load(result)
        (record,) = loaded.records
        quiet = {name: replace(t, spread=0.01) for name, t in record.contenders.items()}
        ours = replace(quiet["fastprune"], **changes)
        floor = replace(quiet["floor"], median=1.0)
        contenders = quiet | {"fastprune": ours, "floor": floor}
        return tables.make_table(
            replace(loaded, records=[replace(record, contenders=contenders)]), "local"
        )

    assert table(median=1.0).notes == []
    (note,) = table(median=0.9).notes
    assert note.startswith("x floor below 1: ")
    assert table(median=0.9999).notes == []  # it is shown as 1.00
    spread = table(median=2.0, spread=0.3)
    assert "~2.00 s" in spread.rows[0] and spread.notes[0].startswith("~: ")


def test_a_floor_of_a_graph_is_not_shown(result: Path, module: Callable[[str], ModuleType]) -> None:
    loaded: Any = module("harness.records").load(result)
    (record,) = loaded.records
    floor = replace(record.contenders["floor"], loops=20)
    record = replace(record, device="cuda", contenders=record.contenders | {"floor": floor})
    table: Any = module("harness.tables").make_table(replace(loaded, records=[record]), "local")
    shown = dict(zip(table.headings, table.rows[0], strict=True))
    assert shown["Floor"] == shown["x floor"] == "-"
    assert any(note.startswith("x floor -: ") for note in table.notes)


@pytest.mark.parametrize("arguments", [("--filter", "nothing is called so"), ("--filter", "(")])
def test_nothing_to_do(arguments: tuple[str, ...]) -> None:
    pytest.importorskip("rich")
    done = script("run.py", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_figures_of_the_readmes_are_those_of_the_result_files() -> None:
    done = script("report.py", "--check", *READMES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("readme", READMES, ids=["main", "benchmarks"])
def test_readme_claims_no_speed_beside_the_figures(readme: Path) -> None:
    claim = CLAIM.search(REGION.sub("", readme.read_text(encoding="utf-8")))
    assert claim is None, f"not from a result file: {claim[0] if claim else ''}"


def test_report_renews_regions(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"A\n<!-- figures: {result} selection=headline -->\n<!-- /figures -->\nB\n")
    assert script("report.py", "--check", readme).returncode == 1
    assert script("report.py", result, "--readme", readme).returncode == 0
    text = readme.read_text()
    assert text.startswith("A\n<!--") and text.endswith("-->\nB\n") and "l1_unstructured" in text
    assert script("report.py", "--check", readme).returncode == 0
    readme.write_text(text.replace("| 10K", "| 11K"))
    assert script("report.py", "--check", readme).returncode == 1


def test_report_moves_regions_to_the_new_version(result: Path, tmp_path: Path) -> None:
    newer = result.with_name("machine-2.jsonl")
    newer.write_text(result.read_text())
    readme = tmp_path / "README.md"
    readme.write_text("Text\n")
    for path in (result, newer):
        assert script("report.py", path, "--readme", readme).returncode == 0
    text = readme.read_text()
    assert str(newer) in text and str(result) not in text
    assert script("report.py", "--check", readme).returncode == 0


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


SMALL_GROUPS = [
    *((family, variant) for family in ("nm", "rows") for variant in ("plain", "factor")),
    *(("blocks", variant) for variant in ("16x16", "4x4", "1x4", "tied")),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "variant"), SMALL_GROUPS)
def test_cases_of_groups(
    module: Callable[[str], ModuleType], family: str, variant: str, dtype: str
) -> None:
    """Each passes its check, and what others compose prunes as much."""
    cases: Any = module("suite.cases")
    shapes = ((64, 64),) * (4 if variant == "tied" else 1)
    case = cases.Case(family, variant, "cpu", dtype=dtype, shapes=shapes)
    workload = module("suite.families").build(case)
    workload.check()
    assert workload.bytes == 3 * case.itemsize * case.numel
    half = case.numel // 2
    for contender in workload.contenders[1:]:  # the first is ours
        result = contender.once()
        if contender.name != "floor":
            pairs = [result] if isinstance(result, tuple) else result
            assert sum(int((mask == 0).sum()) for mask, _ in pairs) == half, contender.name


@pytest.mark.parametrize(
    "variant",
    [
        "eval-batch1",
        "eval-compiled-batch32",
        "train-sgd-batch32",
        "train-adamw-batch32",
        "train-adamw-unfused-batch32",
    ],
)
def test_cases_of_the_life_of_a_pruned_model(
    module: Callable[[str], ModuleType], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # no code
    cases: Any = module("suite.cases")
    workload = module("suite.families").build(
        cases.Case("life", variant, "cpu", shapes=((64, 64),) * 4)
    )
    workload.check()
    names = [contender.name for contender in workload.contenders]
    forms = ["in place, bits"] if variant.startswith("train") else []
    assert names == ["fastprune", "upstream", "ordinary form", *forms, "dense again", "floor"]
    assert not any(contender.is_alternative for contender in workload.contenders)
    results = [contender.once() for contender in workload.contenders]
    if variant.startswith("eval"):
        assert torch.allclose(results[1], results[0], atol=1e-6)
        assert torch.equal(results[-1], results[-2])
        assert not torch.allclose(results[-1], results[0], atol=1e-6)


def test_evaluation_and_training_at_every_size(module: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("numpy")
    life = [c for c in module("suite.families").all_cases("cpu") if c.family == "life"]
    variants = {case.variant for case in life}
    assert variants >= {f"eval-{how}batch{n}" for how in ("", "compiled-") for n in (1, 32)}
    assert variants >= {
        f"train-{optimizer}-batch{n}"
        for optimizer in ("sgd", "adamw", "adamw-unfused")
        for n in (32, 256)
    }
    assert len(life) == 3 * len(variants)  # widths


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_case_has_a_name_in_words(module: Callable[[str], ModuleType], device: str) -> None:
    pytest.importorskip("numpy")
    words = module("harness.tables")._WHAT
    cases = [c for c in module("suite.families").all_cases(device) if c.family != "model"]
    assert {f"{c.family}/{c.variant}" for c in cases} <= words.keys()


def test_a_wrong_block_is_found(
    module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastprune: Any = import_module("fastprune")
    cases: Any = module("suite.cases")
    workload = module("suite.families").build(
        cases.Case("blocks", "4x4", "cpu", shapes=((64, 64),))
    )
    right = fastprune.block_structured

    def wrong(layer: torch.nn.Module, name: str, amount: float, block: tuple[int, int]) -> None:
        right(layer, name, amount, block, norm=1)  # another norm, other blocks

    monkeypatch.setattr(fastprune, "block_structured", wrong)
    with pytest.raises(module("suite.checks").WrongResult):
        workload.check()


def test_peak_memory_of_a_call(module: Callable[[str], ModuleType]) -> None:
    cases: Any = module("suite.cases")
    case = cases.Case("local", "dense", "cpu", shapes=((2048, 2048),))
    made = 2 * 4 * case.numel  # a mask and a product
    peak = module("suite.memory").cpu_peak(case, "fastprune")
    assert peak is not None and 0.9 * made < peak < 2 * made


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
    names = [case.name for case in module("suite.families").all_cases(device)]
    assert len(names) == len(set(names)) > 100
