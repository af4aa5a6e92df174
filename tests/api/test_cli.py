"""The command line: facts and self-test, and pruning of safetensors files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune.cli import job, main, output, selftest

safetensors = pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file  # noqa: E402


def tensors() -> dict[str, Tensor]:
    """Of several dtypes, with ties, NaN, an infinity, zeros and what cannot be pruned."""
    torch.manual_seed(1)
    found = {
        "a.weight": torch.randn(40, 24),
        "b.weight": torch.randn(17, 31).to(torch.bfloat16),
        "c.weight": torch.randn(9, 8, 3, 3).mul(4).round().div(4),
        "c.bias": torch.randn(9),
        "d.weight": torch.randn(12, 16).to(torch.float16),
        "e.weight": torch.randn(6, 20, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "ids": torch.arange(12).view(3, 4),
        "scale": torch.tensor(2.0),
    }
    found["a.weight"][0, 0] = torch.nan
    found["b.weight"][2, 3] = -torch.inf
    found["c.weight"][1] = 0
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, {"made": "by hand"})
    return path


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors take the paths of large ones."""
    monkeypatch.setattr(job, "PIECE", 200)
    monkeypatch.setattr(job, "WHOLE", 300)


def in_file_order(path: Path) -> dict[str, Tensor]:
    """All tensors, in the order of their data."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    header.pop("__metadata__", None)
    loaded = load_file(path)
    return {n: loaded[n] for n in sorted(header, key=lambda n: header[n]["data_offsets"])}


def is_chosen(t: Tensor) -> bool:
    return t.is_floating_point() and t.dim() > 1


def bits(t: Tensor) -> bytes:
    """Signs of zeros count, those of NaN do not."""
    t = torch.where(t.isnan(), torch.nan, t) if t.is_floating_point() else t
    return t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""


def as_modules(ts: dict[str, Tensor]) -> list[tuple[nn.Module, str]]:
    made: list[tuple[nn.Module, str]] = []
    for t in ts.values():
        module = nn.Module()
        module.weight = nn.Parameter(t.clone())
        made.append((module, "weight"))
    return made


def run(model: Path, *options: str) -> dict[str, Tensor]:
    """What is in the output; what no method touches was checked."""
    out = model.with_name("out.safetensors")
    assert main(["prune", str(model), str(out), "--quiet", *options]) == 0
    before, after = model.read_bytes(), out.read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert after[:length] == before[:length] and len(after) == len(before)
    loaded = load_file(out)
    for name, t in tensors().items():
        assert loaded[name].dtype == t.dtype and loaded[name].shape == t.shape
        if not is_chosen(t):
            assert bits(loaded[name]) == bits(t)
    return loaded


def check(loaded: dict[str, Tensor], ts: dict[str, Tensor], modules: Sequence[Any]) -> None:
    for name, (module, _) in zip(ts, modules, strict=True):
        prune.remove(module, "weight")
        assert bits(loaded[name]) == bits(module.weight.detach()), name


@pytest.mark.parametrize("amount", ["0.5", "0.0", "1.0", "0.93"])
@pytest.mark.parametrize("pieces", ["large", "small"])
def test_global(model: Path, amount: str, pieces: str, request: pytest.FixtureRequest) -> None:
    if pieces == "small":
        request.getfixturevalue("small_pieces")
    ts = {n: t for n, t in in_file_order(model).items() if is_chosen(t)}
    modules = as_modules(ts)
    prune.global_unstructured(modules, prune.L1Unstructured, amount=float(amount))
    check(run(model, "--sparsity", amount, "--scope", "global"), ts, modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_global_as_upstream(tmp_path: Path, dtype: torch.dtype, small_pieces: None) -> None:
    path = tmp_path / "model.safetensors"
    values = (torch.randperm(420) + 1).where(torch.rand(420) < 0.5, -torch.randperm(420) - 421)
    assert values.abs().unique().numel() == 420  # upstream leaves ties open
    a, b = values.to(dtype).view(60, 7).split(40)
    save_file({"a": a.contiguous(), "b": b.contiguous()}, path)
    ts = in_file_order(path)
    modules = as_modules(ts)
    upstream.global_unstructured(modules, upstream.L1Unstructured, amount=0.6)
    out = tmp_path / "out"
    options = ["--sparsity=0.6", "--scope=global", "--quiet"]
    assert main(["prune", str(path), str(out), *options]) == 0
    check(load_file(out), ts, modules)


@pytest.mark.parametrize("pieces", ["large", "small"])
@pytest.mark.parametrize(
    ("options", "apply"),
    [
        (["--sparsity", "0.7"], lambda m: prune.l1_unstructured(m, "weight", 0.7)),
        (["--method=row", "--sparsity=0.5"], lambda m: prune.row_unstructured(m, "weight", 0.5)),
        (["--method=row", "--amount=4"], lambda m: prune.row_unstructured(m, "weight", 4)),
        (["--method=nm"], lambda m: prune.nm_structured(m, "weight", 2, 4)),
        (["--method=nm", "--nm=1:8"], lambda m: prune.nm_structured(m, "weight", 1, 8)),
        (["--method=nm", "--sparsity=.5"], lambda m: prune.nm_structured(m, "weight", 2, 4)),
        (["--method=block", "--sparsity=0.5"], lambda m: prune.block_structured(m, "weight", 0.5)),
        (
            ["--method=block", "--block=3x2", "--sparsity=0.4"],
            lambda m: prune.block_structured(m, "weight", 0.4, block=(3, 2)),
        ),
    ],
)
def test_local(
    model: Path, options: list[str], apply: Any, pieces: str, request: pytest.FixtureRequest
) -> None:
    if pieces == "small":
        request.getfixturevalue("small_pieces")
    ts = {n: t for n, t in tensors().items() if is_chosen(t) and t.numel()}
    modules = as_modules(ts)
    for module, _ in modules:
        apply(module)
    check(run(model, *options, "--exclude", "^empty$"), ts, modules)


def test_budget_of_a_number_in_global_scope(model: Path) -> None:
    ts = {n: t for n, t in in_file_order(model).items() if is_chosen(t)}
    modules = as_modules(ts)
    prune.global_unstructured(modules, prune.L1Unstructured, amount=123)
    check(run(model, "--amount", "123", "--scope", "global"), ts, modules)


def test_names(model: Path) -> None:
    loaded = run(model, "--sparsity=1.0", "--include=weight", "--include=^e", "--exclude=^[ab]")
    pruned = {n for n, t in tensors().items() if is_chosen(t) and not loaded[n].any()}
    assert pruned == {"c.weight", "d.weight", "e.weight", "empty"}
    for name in ("a.weight", "b.weight"):
        assert bits(loaded[name]) == bits(tensors()[name])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said; no file is made or changed."""
    folder = Path(str(arguments[0])).parent
    before = {f: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    try:
        status = main(["prune", *map(str, arguments), "--quiet"])
    except SystemExit as error:
        status = int(str(error.code))
    assert status in (1, 2)
    assert {f: f.read_bytes() for f in folder.iterdir() if f.is_file()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["path", "symlink", "hardlink"])
def test_output_that_is_the_input(
    model: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model.with_name("other.safetensors")
    if kind == "symlink":
        out.symlink_to(model)
    elif kind == "hardlink":
        out.hardlink_to(model)
    else:
        out = model
    said = refused(capsys, model, out, "--sparsity=0.5", "--force")
    assert "expected another file than the input" in said


def test_output_that_exists(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("out.safetensors")
    out.write_text("precious")
    assert "--force replaces it" in refused(capsys, model, out, "--sparsity=0.5")
    run(model, "--sparsity=0.5", "--force")
    assert {f.name for f in model.parent.iterdir()} == {model.name, out.name}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "takes --sparsity or --amount"),
        (["--sparsity=1.5"], "from 0 to 1, got 1.5"),
        (["--amount=-1"], "or a non-negative integer"),
        (["--amount=100000"], "should be smaller than the number of parameters"),
        (["--amount=100000", "--scope=global"], "should be smaller than the number of"),
        (["--method=nm", "--sparsity=0.6"], "2:4 is 0.5; got 0.6"),
        (["--method=nm", "--nm=5:4"], "got 5:4"),
        (["--method=row", "--sparsity=0.5", "--scope=global"], "for --method magnitude, got row"),
        (["--sparsity=0.5", "--include=nothing"], "got none among 9 tensors"),
        (["--sparsity=0.5", "--include=["], "expected a regular expression, got '['"),
    ],
)
def test_refusals(
    model: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, model, model.with_name("out"), *options)
    assert expected in " ".join(said.split())


def test_inputs_that_are_not_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "No such file" in refused(capsys, tmp_path / "none", out, "--sparsity=0.5")
    bad = tmp_path / "bad"
    for data in (b"", b"PK12345678", (1 << 40).to_bytes(8, "little") + b"{}"):
        bad.write_bytes(data)
        assert "to be a safetensors file" in refused(capsys, bad, out, "--sparsity=0.5")
    save_file({"w": torch.rand(4, 4)}, bad)
    bad.write_bytes(bad.read_bytes()[:-1])
    assert "to be a safetensors file" in refused(capsys, bad, out, "--sparsity=0.5")
    layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    save_file(layer.state_dict(), bad)
    assert "dense_state_dict" in refused(capsys, bad, out, "--sparsity=0.5")


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_failure_leaves_nothing(
    model: Path, unnamed: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    write = output.WholeFile.write
    written = []

    def fails(self: output.WholeFile, data: bytes) -> None:
        if len(written) == 3:
            raise error
        written.append(data)
        write(self, data)

    monkeypatch.setattr(output.WholeFile, "write", fails)
    out = model.with_name("out")
    status = main(["prune", str(model), str(out), "--sparsity=0.5", "--quiet"])
    assert status == (1 if isinstance(error, OSError) else 130)
    assert [f.name for f in model.parent.iterdir()] == [model.name]


def test_without_unnamed_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(model, "--sparsity=0.5")
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    loaded = run(model, "--sparsity=0.5", "--force")
    assert all(bits(t) == bits(expected[n]) for n, t in loaded.items())
    out = model.with_name("out.safetensors")
    out.unlink()
    run(model, "--sparsity=0.5")
    assert {f.name for f in model.parent.iterdir()} == {model.name, out.name}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
@pytest.mark.parametrize("unnamed", [True, False])
def test_permissions(
    model: Path, mode: int, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the input, as `cp` has them: what was private stays so."""
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    model.chmod(mode)
    before = os.umask(0o022)
    try:
        run(model, "--sparsity=0.5")
    finally:
        os.umask(before)
    assert model.with_name("out.safetensors").stat().st_mode & 0o777 == mode & ~0o022


def test_input_that_changes_meanwhile(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = output.WholeFile.write

    def meddles(self: output.WholeFile, data: bytes) -> None:
        os.utime(model, ns=(0, 0))
        write(self, data)

    monkeypatch.setattr(output.WholeFile, "write", meddles)
    assert main(["prune", str(model), str(model.with_name("o")), "--sparsity=0.5", "--quiet"]) == 1
    assert "changed meanwhile" in capsys.readouterr().err
    assert [f.name for f in model.parent.iterdir()] == [model.name]


# Prunes a file that is read more and more slowly, so that there is a middle to be killed in.
SLOW = """
import signal, sys, time
from fastprune.cli import main, output
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
if sys.argv[1] == "named":
    import os
    vars(os).pop("O_TMPFILE", None)
write = output.WholeFile.write
def slow(self, data):
    write(self, data)
    print("written", flush=True)
    time.sleep(60)
output.WholeFile.write = slow
sys.exit(main(["prune", *sys.argv[2:], "--sparsity=0.5", "--quiet"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT", "SIGKILL"])
@pytest.mark.parametrize("kind", ["unnamed", "named"])
def test_killed_in_the_middle(model: Path, sent: str, kind: str) -> None:
    out = model.with_name("out")
    command = [sys.executable, "-c", SLOW, kind, str(model), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.send_signal(getattr(signal, sent))
        status = process.wait(timeout=60)
    assert status == {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -signal.SIGKILL}[sent]
    left = {f.name for f in model.parent.iterdir()} - {model.name}
    if sent == "SIGKILL" and (kind == "named" or not hasattr(os, "O_TMPFILE")):
        assert len(left) == 1 and left.pop().startswith(output.PREFIX)
    else:
        assert not left


@pytest.mark.large
@pytest.mark.parametrize(
    "options", [["--sparsity=0.5"], ["--sparsity=0.5", "--scope=global"], ["--method=nm"]]
)
def test_memory_of_a_file_of_2_gb(tmp_path: Path, options: list[str]) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.safetensors"
    big = {"big": torch.randn(16384, 8192)}  # 512 MiB
    big |= {f"layer{i}": torch.randn(8192, 16384).to(torch.bfloat16) for i in range(6)}
    save_file(big, path)
    del big
    command = [sys.executable, "-m", "fastprune", "prune", str(path), str(tmp_path / "out")]
    pid = subprocess.Popen([*command, "--quiet", *options]).pid
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert isinstance(usage, resource.struct_rusage)
    assert usage.ru_maxrss * 1024 < 1.2e9


def test_progress_and_summary(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    out = model.with_name("out")
    assert main(["prune", str(model), str(out), "--sparsity=0.5", "--scope=global"]) == 0
    said = capsys.readouterr()
    assert "6 of 9 tensors pruned, 50.02% of their 2,447 entries are zero" in said.out
    assert "counting magnitudes, read 6" in said.err and "pruning" in said.err


def test_reader_that_has_enough() -> None:
    """As in ``python -m fastprune info | head -1``; here it reads nothing at all."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fastprune", "info"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("missing", ["rich", "safetensors"])
def test_missing_extra(
    model: Path,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["prune", str(model), str(model.with_name("out")), "--sparsity=0.5"]) == 1
    said = capsys.readouterr().err
    assert missing in said and "pip install safetensors rich" in said


def test_every_operator_has_a_check() -> None:
    assert set(selftest.CHECKS) == {*prune.ops.__all__, "topk_part"}


def test_facts_and_self_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert prune.__version__ in said and torch.__version__ in said
    assert f"{len(selftest.CHECKS)} operators on cpu" in said and "all work" in said
    assert main(["info"]) == 0
    assert said.startswith(capsys.readouterr().out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fastprune {prune.__version__}\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    tested = {(result["op"], result["device"]) for result in said["self_test"]}
    assert tested >= {(op, "cpu") for op in prune.ops.__all__}
    assert said["cpu_version_used"] in said["cpu_versions"]
    assert bool(said["plain_because"]) == (len(said["cpu_versions"]) == 1)
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.items() <= said.items()


@pytest.mark.parametrize("as_json", [True, False])
def test_operator_that_is_wrong(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prune.ops, "masked_mul", lambda t, mask: t)
    assert main(["--json"] if as_json else []) == 1
    said = capsys.readouterr().out
    if as_json:
        (failed,) = [result for result in json.loads(said)["self_test"] if not result["ok"]]
        assert failed["op"] == "masked_mul" and "expected" in failed["error"]
    else:
        assert "FAILED        masked_mul on cpu: torch.float64: AssertionError: expected" in said


def test_remarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    facts = dict(prune._C.build_info())
    facts |= {"plain_because": "a reason", "torch": "1.0", "compiler": "Clang 9"}
    monkeypatch.setattr(prune._C, "build_info", lambda: facts)
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "compiled by Clang 9 as plain code only: a reason" in said
    assert "built for torch 1.0, but this is torch" in said
