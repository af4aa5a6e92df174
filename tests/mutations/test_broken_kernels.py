"""Proof that the tests of the CUDA kernels can fail: each kernel below has one thing broken.

The operator's own tests, as `make test` runs them, must fail on every one. `make test` itself takes
every SHARE-th, `make broken` all of them; run that after a change of a kernel, which may also call
for an update of this table: `old` stands exactly once in the file, and `new` breaks behaviour.
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
    # ---- channel_mask: which channels are active ----
    Broken(
        "flags: the sign of a zero makes a channel active",
        "channels/flags.cuh",
        "(any & task.magnitude) != 0",
        "any != 0",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: the sign of a zero makes a channel of short runs active",
        "channels/flags.cuh",
        "(entries.at[v] & magnitude) != 0",
        "entries.at[v] != 0",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: the end of the last part is left out",
        "channels/flags.cuh",
        "(size / V + task.parts - 1) / task.parts * V",
        "size / V / task.parts * V",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: no barrier between clearing what is found and finding",
        "channels/flags.cuh",
        "found[own] = 0;\n    __syncthreads();",
        "found[own] = 0;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: the same of short runs",
        "channels/flags.cuh",
        "found[threadIdx.x] = 0;\n    __syncthreads();",
        "found[threadIdx.x] = 0;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: a thread whose entries end does not wait for the others",
        "channels/flags.cuh",
        "more = more && j < end && found[own] == 0;\n    } while (__syncthreads_or(more));",
        "more = more && j < end && found[own] == 0;\n    } while (more);",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "flags: packs of a mask that is not aligned",
        "channels/channel_mask.cu",
        "% kPack == 0 && aligned(mask);",
        "% kPack == 0;",
        "ops/channels/test_channel_mask.py",
    ),
    # ---- channel_mask: selection ----
    Broken(
        "select: the flag of an active channel is ignored",
        "channels/select.cuh",
        "return flags == nullptr || flags[c] != 0;",
        "return true;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier between clearing the bins and counting",
        "channels/select.cuh",
        "bins[b] = 0;\n  __syncthreads();",
        "bins[b] = 0;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier between counting and reading the bins",
        "channels/select.cuh",
        "1u);\n  });\n  __syncthreads();",
        "1u);\n  });",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: a digit is shifted by one too many",
        "channels/select.cuh",
        ">> digit.shift]",
        ">> (digit.shift + 1)]",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier between narrowing and looking at the bracket",
        "channels/select.cuh",
        "static_cast<int64_t>(bins[b]); });\n  }\n  __syncthreads();",
        "static_cast<int64_t>(bins[b]); });\n  }",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier between clearing the count of those gathered and gathering",
        "channels/select.cuh",
        "gathered = 0;\n  __syncthreads();",
        "gathered = 0;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier between gathering and ranking",
        "channels/select.cuh",
        "channels[at] = c;\n  });\n  __syncthreads();",
        "channels[at] = c;\n  });",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: of few equal keys the highest channel goes first",
        "channels/select.cuh",
        "channels[i] < channel",
        "channels[i] > channel",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: all ties of a thread are pruned, however many are due",
        "channels/select.cuh",
        "due > 0; ++c) due -=",
        "c < end; ++c) due -=",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: ties of the threads before are not counted",
        "channels/select.cuh",
        "due = bracket.rank - before;",
        "due = 1;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "select: no barrier before the answer is read",
        "channels/select.cuh",
        "bracket, last);\n  }\n  __syncthreads();\n  return last;",
        "bracket, last);\n  }\n  return last;",
        "ops/channels/test_channel_mask.py",
    ),
    # ---- channel_mask: writing ----
    Broken(
        "channel_mask: no barrier between marking the pruned channels and writing",
        "channels/channel_mask.cu",
        "scores, last, pruned);\n  __syncthreads();",
        "scores, last, pruned);",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "channel_mask: a pack is taken to lie in one channel",
        "channels/channel_mask.cu",
        "N == 1 || task.whole",
        "true",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "channel_mask: packs of a mask that is not aligned",
        "channels/channel_mask.cu",
        "aligned(mask) && aligned(out)",
        "true",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "channel_mask: the channel after the last is not the first",
        "util/tile_divisor.cuh",
        "if (++channel == of.channels.d) channel = 0;",
        "++channel;",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "channel_mask: a tile of many rows is taken to end in the second",
        "util/tile_divisor.cuh",
        "d >= kTile ? n >= d",
        "true ? n >= d",
        "ops/channels/test_channel_mask.py",
    ),
    Broken(
        "channel_prune: packs of a tensor that is not aligned",
        "channels/channel_mask.cu",
        " && aligned(multiplied.t)",
        "",
        "ops/channels/test_channel_prune.py",
    ),
    Broken(
        "channel_prune: every tile's product goes to the first tile",
        "channels/channel_mask.cu",
        "multiplied.product + at + i",
        "multiplied.product + i",
        "ops/channels/test_channel_prune.py",
    ),
    # ---- channel_norms ----
    Broken(
        "channel walk: the next run is not found",
        "channels/walk.cuh",
        "offset += carry;",
        "",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: other threads' lanes are not folded in",
        "channels/norm_sums.cuh",
        "half = kNormLanes / 2;",
        "half = kNormLanes / 4;",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: a thread's own lanes are not folded",
        "channels/norm_sums.cuh",
        "for (int v = 0; v < half; ++v)",
        "for (int v = half; v < half; ++v)",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: chunks are added up before the last block is done",
        "channels/norm_sums.cuh",
        "static_cast<unsigned>(task.spans)",
        "static_cast<unsigned>(task.spans - 1)",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: the counters do not start from zero",
        "channels/channel_norms.cu",
        "at::zeros(",
        "at::ones(",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: the first chunks are staged again and again",
        "channels/norm_sums.cuh",
        "partial + chunk * count + i",
        "partial + i",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: no barrier between staging chunks and adding them up",
        "channels/norm_sums.cuh",
        "__syncthreads();\n    for (int k = 0; c < count",
        "for (int k = 0; c < count",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "channel_norms: chunks are staged over those that are being added up",
        "channels/norm_sums.cuh",
        "__syncthreads();  // before the next chunks are staged",
        "",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of rows: no barrier between the sums and adding them up",
        "channels/norm_rows.cuh",
        "sums[side][group] = sum;\n      __syncthreads();",
        "sums[side][group] = sum;",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of rows: every block takes the first chunks",
        "channels/norm_rows.cuh",
        "begin = at % task.spans * plan.chunks;",
        "begin = 0;",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of rows: the end of the last chunk is not guarded",
        "channels/norm_rows.cuh",
        "from + kNormChunk < size ? from + kNormChunk : size;",
        "from + kNormChunk;",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of rows: packs of data that are not aligned",
        "channels/channel_norms.cu",
        "reinterpret_cast<uintptr_t>(data) % kPackBytes == 0 &&",
        "",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of columns: no barrier between writing the lanes and folding them",
        "channels/norm_columns.cuh",
        "lanes[y][x + v] = lane[v];\n      __syncthreads();",
        "lanes[y][x + v] = lane[v];",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of columns: no barrier before the next lanes",
        "channels/norm_columns.cuh",
        "__syncthreads();  // before the next lanes",
        "",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of strips: no barrier before the next rows",
        "channels/norm_strips.cuh",
        "__syncthreads();  // the rows before have been read",
        "",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of strips: no barrier between the rows and reading them",
        "channels/norm_strips.cuh",
        "= entry[u];\n        });\n        __syncthreads();",
        "= entry[u];\n        });",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of strips: an entry before the chunk is added too",
        "channels/norm_strips.cuh",
        "begin > origin ? begin - origin : 0",
        "0",
        "ops/channels/test_channel_norms.py",
    ),
    Broken(
        "norms of strips: rows begin with lane 0",
        "channels/norm_strips.cuh",
        "(origin + low) % kNormLanes",
        "int64_t{0}",
        "ops/channels/test_channel_norms.py",
    ),
    # ---- combine_masks and masked_mul ----
    Broken(
        "combine_masks: the last entry of an odd number is forgotten",
        "elementwise/combine_masks.cu",
        "out.numel()));",
        "out.numel() / 2 * 2));",
        "ops/elementwise/test_combine_masks.py",
    ),
    Broken(
        "masked_mul: tiles beyond the grid are forgotten",
        "elementwise/product.cuh",
        "tile += gridDim.x",
        "tile += list.tiles",
        "ops/elementwise/test_masked_mul.py",
    ),
    Broken(
        "masked_mul: an entry is multiplied by the mask of another",
        "elementwise/product.cuh",
        "of.mask.at[v]",
        "of.mask.at[N - 1 - v]",
        "ops/elementwise/test_masked_mul.py",
    ),
    Broken(
        "packs: what is left beside whole packs is forgotten",
        "util/vec.cuh",
        "int j = packed + static_cast<int>(threadIdx.x); j < size",
        "int j = packed + static_cast<int>(threadIdx.x); j < packed",
        "ops/elementwise/test_masked_mul.py",
    ),
    Broken(
        "packs: memory that is not aligned is read in packs",
        "util/vec.cuh",
        "wide ? size / N * N : 0",
        "size / N * N",
        "ops/elementwise/test_masked_mul.py",
    ),
    Broken(
        "packs: those under way are all the first",
        "util/vec.cuh",
        "fetched[p] = load(Width<N>{}, i + p * kStride);",
        "fetched[p] = load(Width<N>{}, i);",
        "ops/elementwise/test_masked_mul.py",
    ),
    # ---- lists of tensors ----
    Broken(
        "segments: the first tile of a tensor is looked up in the tensor before",
        "util/tensor_list.cuh",
        "list.many[middle].*kFirst <= at",
        "list.many[middle].*kFirst < at",
        "ops/topk/test_topk_masks.py",
    ),
    Broken(
        "segments: the last tile of a tensor is taken for a whole one",
        "util/tensor_list.cuh",
        "left < kTile ? left : kTile",
        "kTile",
        "ops/topk/test_topk_masks.py",
    ),
    Broken(
        "segments: tensors beyond the first batch are stored over it",
        "util/tensor_list.cu",
        "many[batch.first + i] =",
        "many[i] =",
        "ops/topk/test_topk_masks.py",
    ),
    Broken(
        "tile map: the last tile of a tensor is forgotten if it is not whole",
        "util/tile_map.h",
        "(segment.size + kTile - 1) / kTile",
        "(segment.size > kTile ? segment.size : kTile) / kTile",
        "ops/elementwise/test_masked_mul.py",
    ),
    # ---- topk_masks ----
    Broken(
        "segments: packs are taken of tensors that are not aligned for them",
        "util/tensor_list.cuh",
        "reinterpret_cast<uintptr_t>(p) % (bytes * kEntries) == 0;",
        "bytes > 0;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: inactive entries are counted and pruned",
        "topk/state.cuh",
        "return !options.active_only ||",
        "return true ||",
        "ops/topk/test_topk_masks.py",
    ),
    Broken(
        "topk_masks: the last block is not the last",
        "util/device.cuh",
        "== blocks - 1;",
        "== 0;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the count of blocks is not zero again after the last",
        "util/device.cuh",
        "atomicInc(arrived, blocks - 1)",
        "atomicAdd(arrived, 1u)",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: counters are not cleared",
        "topk/bracket.cuh",
        "s->active = s->below = s->ties_lo = s->ties_hi = s->between = 0;",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the sample's bins are cleared while others still read them",
        "topk/bracket.cuh",
        "__syncthreads();  // all have read the bins, and `found` is there",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between clearing the sample's bins and counting",
        "topk/bracket.cuh",
        "bins[b] = 0;\n    __syncthreads();",
        "bins[b] = 0;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: what equals the lower edge is kept although the threshold lies above",
        "topk/bracket.cuh",
        "guess = lo == hi ? lo : lo + 1;",
        "guess = lo;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the next digit is counted on top of the last",
        "topk/kernels.cuh",
        "work.bins + int64_t{pass} * kBins",
        "work.bins",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between clearing the bins and counting",
        "topk/radix_pass.cuh",
        "clear_bins(bins);\n    __syncthreads();",
        "clear_bins(bins);",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: no barrier between counting and adding up the bins",
        "topk/radix_pass.cuh",
        "}\n    __syncthreads();\n    bracket = narrow_in_block",
        "}\n    bracket = narrow_in_block",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a run of equal bins is not added at its end",
        "topk/radix_pass.cuh",
        "if (b != bin) {\n      flush(bins);",
        "if (b != bin) {\n      count = 0;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the place of a tile's candidates is used before it is known",
        "topk/sweep.cuh",
        "__syncthreads();  // `shared_begin` is there, and `scan` may be used again",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates are written over those of earlier threads",
        "topk/sweep.cuh",
        "static_cast<int64_t>(before >> (2 * kField))",
        "0",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates beyond the room are kept",
        "topk/sweep.cuh",
        "if (missed || overflow)",
        "if (missed)",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a sample that misled is believed",
        "topk/sweep.cuh",
        "if (missed || overflow)",
        "if (overflow)",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: after a miss nothing is swept again",
        "topk/kernels.cuh",
        "if (state->source == Source::kCandidates) return;\n    const auto key",
        "return;\n    const auto key",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the sum of a block is taken before the last one is read",
        "topk/sweep.cuh",
        "__syncthreads();  // before `reduce` is used again",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the last block shares out ties that are not yet counted",
        "topk/kernels.cuh",
        "__syncthreads();  // all counts are there",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: the quota of a tile ignores the ties before it",
        "topk/fixup.cuh",
        "const long long due = left - before;",
        "const long long due = left;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: later rounds of quotas have all that was due",
        "topk/fixup.cuh",
        "left -= total;\n    __syncthreads();",
        "__syncthreads();",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: all ties of a tile are pruned, whatever its quota",
        "topk/fixup.cuh",
        "&& before++ < left)",
        ")",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a round of ties forgets those of the rounds before",
        "topk/fixup.cuh",
        "left -= total;\n  }\n  return quota.due",
        "}\n  return quota.due",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: a scan's storage is used again without a barrier",
        "topk/fixup.cuh",
        "popc(ties), before, total);\n      __syncthreads();",
        "popc(ties), before, total);",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: ties that the guess has pruned are not restored",
        "topk/fixup.cuh",
        "all_pruned ? ties.quota() < ties.ties() : ties.quota() > 0;",
        "!all_pruned && ties.quota() > 0;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates on the wrong side of the guess stay there",
        "topk/fixup.cuh",
        "if (prune == (key < edges.guess)) continue;",
        "if (prune || key >= edges.guess) continue;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: candidates that the guess has pruned are not restored",
        "topk/fixup.cuh",
        "if (prune == (key < edges.guess)) continue;",
        "if (!prune || key < edges.guess) continue;",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_masks: what a block's warps left is overwritten before it was done",
        "topk/fixup.cuh",
        "__syncthreads();  // before `left` is written again",
        "",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_prune: a mask that is put right leaves its product",
        "topk/fixup.cuh",
        "write<1, F, M>(span, i, prune",
        "store_pack<1>(span.out + i, prune",
        "ops/topk/test_topk_paths.py",
    ),
    Broken(
        "topk_prune: a product is of the old mask",
        "topk/state.cuh",
        "product_bits<F, M>(values.at[e], t.at[e])",
        "product_bits<F, M>(static_cast<M>(old_mask<N, F, M>(span, i, {}).at[e]), t.at[e])",
        "ops/topk/test_topk_prune.py",
    ),
]
#: A read beyond the end that changes no result: for a sanitizer alone to find.
UNSEEN = Broken(
    "masked_mul: the mask is read one entry beyond its end",
    "elementwise/product.cuh",
    "return Factors{",
    "const volatile M* ahead = span.mask + i + N;\n          (void)*ahead;\n"
    "          return Factors{",
    "ops/elementwise/test_masked_mul.py",
)


SHARE = 4


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
        (csrc / "cuda" / broken.file).write_text(broken_text(broken))
    return csrc


def broken_text(broken: Broken) -> str:
    """The file of an entry with the one thing in it broken."""
    text = (build.ROOT / "csrc" / "cuda" / broken.file).read_text()
    assert text.count(broken.old) == 1, (
        f"{broken.file} has changed: {broken.old!r} stands in it {text.count(broken.old)} "
        f"times. Update the entry {broken.what!r} in {Path(__file__).name}"
    )
    return text.replace(broken.old, broken.new)


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
    chosen = [
        item.callspec.params["broken"]
        for item in items
        if hasattr(item, "callspec") and item.get_closest_marker("skip") is None
    ]
    with ThreadPoolExecutor(build.JOBS) as pool:
        yield {broken: pool.submit(run_copy, folder, broken) for broken in [None, *chosen]}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "broken",
    [
        # Each takes a compilation: a share of them in every run, all of them with --broken.
        pytest.param(broken, marks=[pytest.mark.broken] if i % SHARE else [])
        for i, broken in enumerate(BROKEN)
    ],
    ids=id_of,
)
def test_is_caught(broken: Broken, outcomes: Outcomes) -> None:
    outcome = outcomes[broken].result()
    if not outcome.caught:
        pytest.fail(f"{broken.tests} does not notice it:\n{outcome.output[-2000:]}", pytrace=False)
    print(outcome.first_failure)


def test_the_table_follows_the_sources() -> None:
    for broken in [*BROKEN, UNSEEN]:
        assert broken_text(broken) != broken.old


def test_unbroken_passes(outcomes: Outcomes) -> None:
    outcome = outcomes[None].result()
    assert outcome.returncode == 0, outcome.first_failure


def test_sanitizer_catches_what_changes_no_result(tmp_path: Path) -> None:
    if not session.sanitized():
        pytest.skip("needs the sanitizers: make sanitize")
    csrc = copy_sources(tmp_path, UNSEEN)
    outcome = try_out(replace(build.SANITIZED, csrc=csrc), UNSEEN.tests)
    assert "heap-buffer-overflow" in outcome.output, outcome.output[-2000:]
