"""Proof that the tests of the CUDA kernels can fail: each kernel below has one thing broken.

The operator's own tests, as `make test` runs them, must fail on every one. A change of a kernel may
call for an update of this table: `old` stands exactly once in the file, and `new` breaks behaviour.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cuda_on_host import build, session


@dataclass(frozen=True)
class Broken:
    what: str
    file: str
    old: str
    new: str
    tests: str


BROKEN = [
    # ---- channel_mask ----
    Broken(
        "channel_mask: the flag of an active channel is ignored",
        "channel_mask.cu",
        "return active == nullptr || active[c] != 0;",
        "return true;",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: no barrier between clearing the bins and counting",
        "channel_mask.cu",
        "bins[b] = 0;\n    __syncthreads();",
        "bins[b] = 0;",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: no barrier between counting and reading the bins",
        "channel_mask.cu",
        "1u);\n    }\n    __syncthreads();",
        "1u);\n    }",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: a digit is shifted by one too many",
        "channel_mask.cu",
        ">> digit.shift]",
        ">> (digit.shift + 1)]",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: all ties are pruned, whatever their quota",
        "channel_mask.cu",
        "(tie && before < due)",
        "tie",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: a scan's aggregate is ignored, so each round has the whole quota",
        "channel_mask.cu",
        "due -= total;",
        "",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: the scan's storage is used again without a barrier",
        "channel_mask.cu",
        "__syncthreads();  // before the next round uses `scan`",
        "",
        "test_channel_mask.py",
    ),
    Broken(
        "channel_mask: the inner size is left out of an index",
        "channel_mask.cu",
        "out[i] = prune[i / inner % channels]",
        "out[i] = prune[i % channels]",
        "test_channel_mask.py",
    ),
    # ---- channel_norms ----
    Broken(
        "channel_norms: half of the lanes are not folded",
        "channel_norms.cu",
        "for (int half = kNormLanes / 2; half > 0; half /= 2) {\n      sum =",
        "for (int half = kNormLanes / 4; half > 0; half /= 2) {\n      sum =",
        "test_channel_norms.py",
    ),
    Broken(
        "channel_norms: no barrier between writing the lanes and folding them",
        "channel_norms.cu",
        "lanes[y][x] = sum;\n    __syncthreads();",
        "lanes[y][x] = sum;",
        "test_channel_norms.py",
    ),
    Broken(
        "channel_norms: no barrier between the steps of the fold",
        "channel_norms.cu",
        "lanes[y + half][x]);\n      __syncthreads();",
        "lanes[y + half][x]);",
        "test_channel_norms.py",
    ),
    Broken(
        "channel_norms: every chunk is taken for the first",
        "channel_norms.cu",
        "const int64_t begin = task % shape.chunks * kNormChunk;",
        "const int64_t begin = 0;",
        "test_channel_norms.py",
    ),
    Broken(
        "channel_norms: the end of the last chunk is not guarded",
        "channel_norms.cu",
        "begin + kNormChunk < size ? begin + kNormChunk : size;",
        "begin + kNormChunk;",
        "test_channel_norms.py",
    ),
    # ---- combine_masks ----
    Broken(
        "combine_masks: every block takes the first block's entries",
        "combine_masks.cu",
        "int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x",
        "int64_t i = threadIdx.x",
        "test_combine_masks.py",
    ),
    # ---- masked_mul ----
    Broken(
        "masked_mul: an index is off by one",
        "masked_mul.cu",
        "int i = threadIdx.x; i < span.size",
        "int i = threadIdx.x + 1; i < span.size",
        "test_masked_mul.py",
    ),
    Broken(
        "masked_mul: tiles beyond the grid are forgotten",
        "masked_mul.cu",
        "tile += gridDim.x",
        "tile += list.tiles",
        "test_masked_mul.py",
    ),
    # ---- lists of tensors ----
    Broken(
        "segments: the first tile of a tensor is looked up in the tensor before",
        "segments.cuh",
        "list.many[middle].*kFirst <= at",
        "list.many[middle].*kFirst < at",
        "test_topk_masks.py",
    ),
    Broken(
        "segments: the last tile of a tensor is taken for a whole one",
        "segments.cuh",
        "left < kTile ? left : kTile",
        "kTile",
        "test_topk_masks.py",
    ),
    Broken(
        "segments: tensors beyond the first batch are stored over it",
        "segments.cu",
        "many[batch.first + i] =",
        "many[i] =",
        "test_topk_masks.py",
    ),
    Broken(
        "tile map: the last tile of a tensor is forgotten if it is not whole",
        "tile_map.h",
        "(segment.size + kTile - 1) / kTile",
        "(segment.size > kTile ? segment.size : kTile) / kTile",
        "test_masked_mul.py",
    ),
    # ---- topk_masks ----
    Broken(
        "segments: packs are taken of tensors that are not aligned for them",
        "segments.cuh",
        "reinterpret_cast<uintptr_t>(p) % (bytes * kEntries) == 0;",
        "bytes > 0;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: inactive entries are counted and pruned",
        "topk_state.cuh",
        "return !options.active_only ||",
        "return true ||",
        "test_topk_masks.py",
    ),
    Broken(
        "topk_masks: the last block is not the last",
        "device.cuh",
        "== gridDim.x - 1;",
        "== 0;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the count of blocks is not zero again after the last",
        "device.cuh",
        "atomicInc(arrived, gridDim.x - 1)",
        "atomicAdd(arrived, 1u)",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: counters are not cleared",
        "topk_bracket.cuh",
        "s->active = s->below = s->ties_lo = s->ties_hi = s->between = 0;",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the sample's bins are cleared while others still read them",
        "topk_bracket.cuh",
        "__syncthreads();  // all have read the bins, and `found` is there",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between clearing the sample's bins and counting",
        "topk_bracket.cuh",
        "bins[b] = 0;\n    __syncthreads();",
        "bins[b] = 0;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: what equals the lower edge is kept although the threshold lies above",
        "topk_bracket.cuh",
        "guess = lo == hi ? lo : lo + 1;",
        "guess = lo;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the next digit is counted on top of the last",
        "topk_kernels.cuh",
        "work.bins + int64_t{pass} * kBins",
        "work.bins",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between clearing the bins and counting",
        "topk_narrow.cuh",
        "clear_bins(bins);\n    __syncthreads();",
        "clear_bins(bins);",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between counting and adding up the bins",
        "topk_narrow.cuh",
        "}\n    __syncthreads();\n    bracket = narrow_in_block",
        "}\n    bracket = narrow_in_block",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a run of equal bins is not added at its end",
        "topk_narrow.cuh",
        "if (b != bin) {\n      flush(bins);",
        "if (b != bin) {\n      count = 0;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the place of a tile's candidates is used before it is known",
        "topk_sweep.cuh",
        "__syncthreads();  // `shared_begin` is there, and `scan` may be used again",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates are written over those of earlier threads",
        "topk_sweep.cuh",
        "static_cast<int64_t>(before >> (2 * kField))",
        "0",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates beyond the room are kept",
        "topk_sweep.cuh",
        "if (missed || overflow)",
        "if (missed)",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a sample that misled is believed",
        "topk_sweep.cuh",
        "if (missed || overflow)",
        "if (overflow)",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: after a miss nothing is swept again",
        "topk_kernels.cuh",
        "if (state->source == Source::kCandidates) return;\n    const auto key",
        "return;\n    const auto key",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the sum of a block is taken before the last one is read",
        "topk_sweep.cuh",
        "__syncthreads();  // before `reduce` is used again",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the last block shares out ties that are not yet counted",
        "topk_kernels.cuh",
        "__syncthreads();  // all counts are there",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the quota of a tile ignores the ties before it",
        "topk_settle.cuh",
        "const long long due = left - before;",
        "const long long due = left;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: later rounds of quotas have all that was due",
        "topk_settle.cuh",
        "left -= total;\n    __syncthreads();",
        "__syncthreads();",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: all ties of a tile are pruned, whatever its quota",
        "topk_settle.cuh",
        "&& before++ < left)",
        ")",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a round of ties forgets those of the rounds before",
        "topk_settle.cuh",
        "left -= total;\n  }\n  return quota.due",
        "}\n  return quota.due",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a scan's storage is used again without a barrier",
        "topk_settle.cuh",
        "popc(ties), before, total);\n      __syncthreads();",
        "popc(ties), before, total);",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: ties that the guess has pruned are not restored",
        "topk_settle.cuh",
        "all_pruned ? ties.quota() < ties.ties() : ties.quota() > 0;",
        "!all_pruned && ties.quota() > 0;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates on the wrong side of the guess stay there",
        "topk_settle.cuh",
        "if (prune == (key < edges.guess)) continue;",
        "if (prune || key >= edges.guess) continue;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates that the guess has pruned are not restored",
        "topk_settle.cuh",
        "if (prune == (key < edges.guess)) continue;",
        "if (!prune || key < edges.guess) continue;",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_masks: what a block's warps left is overwritten before it was done",
        "topk_settle.cuh",
        "__syncthreads();  // before `left` is written again",
        "",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_prune: a mask that is put right leaves its product",
        "topk_settle.cuh",
        "write<1, F, M>(span, i, prune",
        "store_pack<1>(span.out + i, prune",
        "test_topk_paths.py",
    ),
    Broken(
        "topk_prune: a product is of the old mask",
        "topk_state.cuh",
        "product_bits<F, M>(values.at[e], t.at[e])",
        "product_bits<F, M>(static_cast<M>(old_mask<N, F, M>(span, i, {}).at[e]), t.at[e])",
        "test_topk_prune.py",
    ),
]
#: A read beyond the end that changes no result: for a sanitizer alone to find.
UNSEEN = Broken(
    "masked_mul: the mask is read one entry beyond its end",
    "masked_mul.cu",
    "span.out[i] = static_cast<T>(span.mask[i])",
    "const volatile M* ahead = span.mask + i + 1;\n      (void)*ahead;\n"
    "      span.out[i] = static_cast<T>(span.mask[i])",
    "test_masked_mul.py",
)


def id_of(broken: Broken) -> str:
    return re.sub(r"\W+", "_", broken.what)


@dataclass(frozen=True)
class Outcome:
    returncode: int
    output: str

    @property
    def caught(self) -> bool:
        """Tests ran and one failed (1), or the process crashed in one."""
        return self.returncode == 1 or self.returncode < 0

    @property
    def first_failure(self) -> str:
        errors = re.findall(r"(?:^E   +|Fatal Python error: )(.*)$", self.output, re.MULTILINE)
        return errors[0] if errors else self.output[-2000:]


def copy_sources(folder: Path, broken: Broken | None) -> Path:
    csrc = folder / (id_of(broken) if broken else "unbroken") / "csrc"
    shutil.copytree(build.ROOT / "csrc", csrc)
    if broken:
        path = csrc / "cuda" / broken.file
        text = path.read_text()
        assert text.count(broken.old) == 1, (
            f"{broken.file} has changed: {broken.old!r} stands in it {text.count(broken.old)} "
            f"times. Update the entry {broken.what!r} in {Path(__file__).name}"
        )
        path.write_text(text.replace(broken.old, broken.new))
    return csrc


def try_out(variant: build.Variant, *tests: str) -> Outcome:
    """Build a variant, and run tests of operators on it until one fails."""
    environ = {**os.environ, "CUDA_ON_HOST_LIBRARY": str(build.build(variant))}
    environ.pop("CI", None)  # so with the one seed of a developer's machine
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["--capture=sys"]  # else what a sanitizer writes before it exits is lost
    done = subprocess.run(
        [*command, "-k", session.NAME, *(str(build.ROOT / "tests" / test) for test in tests)],
        cwd=build.ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout)


def run_copy(folder: Path, broken: Broken | None) -> Outcome:
    """Try out one broken kernel, or what is not broken on all the tests that the others fail."""
    tests = {broken.tests} if broken else {entry.tests for entry in BROKEN}
    return try_out(build.Variant(csrc=copy_sources(folder, broken)), *sorted(tests))


Outcomes = dict[Broken | None, "Future[Outcome]"]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """What came of the copies that were selected; some are tried out at the same time."""
    if session.sanitized():
        pytest.skip("takes too long with sanitizers")
    folder = tmp_path_factory.mktemp("broken")
    build.build()  # what the copies share
    items = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["broken"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(build.JOBS) as pool:
        yield {broken: pool.submit(run_copy, folder, broken) for broken in [None, *chosen]}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("broken", BROKEN, ids=id_of)
def test_is_caught(broken: Broken, outcomes: Outcomes) -> None:
    outcome = outcomes[broken].result()
    if not outcome.caught:
        pytest.fail(f"{broken.tests} does not notice it:\n{outcome.output[-2000:]}", pytrace=False)
    print(outcome.first_failure)


def test_unbroken_passes(outcomes: Outcomes) -> None:
    outcome = outcomes[None].result()
    assert outcome.returncode == 0, outcome.first_failure


def test_sanitizer_catches_what_changes_no_result(tmp_path: Path) -> None:
    if not session.sanitized():
        pytest.skip("needs the sanitizers: make sanitize")
    csrc = copy_sources(tmp_path, UNSEEN)
    outcome = try_out(replace(build.SANITIZED, csrc=csrc), UNSEEN.tests)
    assert "heap-buffer-overflow" in outcome.output, outcome.output[-2000:]
