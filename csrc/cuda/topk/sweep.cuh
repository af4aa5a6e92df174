// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the sweep:
// one pass that writes every entry as if the pivot were the threshold, counts, and stores the keys
// strictly between the edges as candidates. Keys equal to an edge are only counted: an edge tends
// to be a key of very many entries, which would fill the room for candidates.
//
// A block sweeps contiguous tiles, a batch of kBatchTiles between two barriers. Within a batch its
// warps do not wait for each other: they stage their candidates in shared memory.
#pragma once

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/staging.cuh"
#include "cuda/topk/step.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// What a thread found in all of its tiles, far fewer than 2^32 entries.
struct Totals {
  unsigned active = 0;
  unsigned below = 0;
};

// A block sweeps a range of tiles. With `count` it adds what it found to the counts. Afterwards all
// of its threads see what it wrote about its tiles.
template <class F, class M>
__device__ __forceinline__ void sweep_tiles(const TensorList& list, const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges, bool count,
                                            TileRange range) {
  using Reduce = cub::BlockReduce<unsigned long long, TopkPolicy::kThreads>;
  constexpr int N = vec_entries<typename F::Bits, M>();
  FASTPRUNE_SHARED(Staging<F>, staging);
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  if (threadIdx.x == 0) staging.count = staging.ties_lo = staging.ties_hi = 0;
  if (threadIdx.x < TopkPolicy::kBatchTiles) staging.edge_ties[threadIdx.x] = 0;
  __syncthreads();  // `staging` is cleared

  // Entries are numbered from the first of the range; a warp's vectors are each in one tile. What
  // `entry` and `place` say is of a lane's first vector in the step.
  static_assert(kTile % (32 * N) == 0, "a warp's vectors are in one tile");
  static_assert(kStepVecs<N> * N <= 32, "a bit for each entry of a step");
  constexpr int kReach = (kStepVecs<N> - 1) * kApart<N> + 32 * N;  // of a warp
  const int tiles = range.last - range.first;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto flip = static_cast<typename F::Key>(options.flip);
  const RawEdges<F> raw_edges(edges, flip);
  const auto pivot_kept = raw_bound<F>(edges.pivot, flip);
  const auto pivot_pruned = raw_bound<F>(edges.pivot + 1, flip);
  const int pivot_tile = static_cast<int>(edges.pivot_tile);
  const auto limit_of = [&](int at) {
    return range.first + at / kTile < pivot_tile ? pivot_pruned : pivot_kept;
  };
  TileWalk walk(list, range.first);
  int entry = static_cast<int>(threadIdx.x) * N;
  int vecs = 0;  // of the step
  Place place{};
  const auto bits_at = [&](unsigned bit) {
    typename F::Bits bits{};
    walk.with_item(place, [&](const TensorItem& item) {
      const auto span = span_at<typename F::Bits, M>(item, place.at + offset_of<N>(bit), 1);
      bits = load_scores<1, F, M>(span, 0, 1).unpack().at[0];
    });
    return bits;
  };
  unsigned between = 0;  // candidates that are not staged
  bool pending = false;  // a lane's candidates found no room
  Totals totals;
  for (int batch = 0; batch < tiles; batch += TopkPolicy::kBatchTiles) {
    const int full = batch + TopkPolicy::kBatchTiles;
    const int end = (full < tiles ? full : tiles) * kTile;
    bool again = false;
    do {
      while (entry < end) {
        if (!pending) {
          place = walk.place(range.first + entry / kTile, entry % kTile);
          Found found;
          walk.with_item(place, [&](const TensorItem& item) {
            const bool whole = !kIsScaled<F> && item.vectorized &&
                               entry - lane * N + kReach <= end &&
                               place.at - lane * N + kReach <= item.size;
            vecs = whole ? kStepVecs<N> : 1;
            const auto limit = [&](int v) { return limit_of(entry + v * kApart<N>); };
            if (whole && item.mask == nullptr) {
              found = sweep_whole<false, N, F, M>(item, place.at, raw_edges, limit, options);
            } else if (whole) {
              found = sweep_whole<true, N, F, M>(item, place.at, raw_edges, limit, options);
            } else {
              found = sweep_any<N, F, M>(item, place, raw_edges, limit(0), options);
            }
          });
          totals.active += __popc(found.active);
          totals.below += __popc(found.pruned & ~found.inside);
          between = found.between;
          const unsigned ties = found.inside & ~between;
          if (__any_sync(0xffffffffu, ties != 0)) {
            count_edge_ties<N, F>(staging, ties, bits_at, raw_edges, flip, entry - batch * kTile);
          }
        }
        const bool staged = stage<N, F>(staging, between, bits_at, flip, entry - batch * kTile);
        if (staged) between = 0;
        pending = __any_sync(0xffffffffu, !staged) != 0;
        if (pending) break;
        entry += vecs * kApart<N>;
      }
      again = __syncthreads_or(pending) != 0;
      flush<F>(staging, work, range.first + batch);
      const int in_batch = end / kTile - batch;
      if (!again && static_cast<int>(threadIdx.x) < in_batch) {
        const EdgeTies ties{staging.edge_ties[threadIdx.x]};
        staging.edge_ties[threadIdx.x] = 0;
        work.edge_ties[range.first + batch + threadIdx.x] = ties.word;
        work.ties[range.first + batch + threadIdx.x] = 0;
        if (ties.lo() > 0) atomicAdd(&staging.ties_lo, ties.lo());
        if (ties.hi() > 0) atomicAdd(&staging.ties_hi, ties.hi());
      }
      __syncthreads();  // `staging` is free again
    } while (again);
  }
  if (!count) return;
  const unsigned long long active = Reduce(reduce).Sum(totals.active);
  __syncthreads();  // before `reduce` is reused
  const unsigned long long below = Reduce(reduce).Sum(totals.below);
  if (threadIdx.x == 0) {
    SweepCounts& counts = work.state->counts;
    atomicAdd(&counts.active, active);
    atomicAdd(&counts.below, below);
    if (staging.ties_lo > 0) atomicAdd(&counts.ties_lo, staging.ties_lo + 0ull);
    if (staging.ties_hi > 0) atomicAdd(&counts.ties_hi, staging.ties_hi + 0ull);
  }
}

// Where the threshold is, as the sweep's counts tell: among the candidates, or, if the bracket
// missed it or the candidates had no room, among all entries.
template <class Key>
struct SweepResult {
  Source source;
  Bracket<Key> bracket;
};

// Prunes `wanted` entries. `fits`: all candidates are stored.
template <class F>
__device__ __forceinline__ SweepResult<typename F::Key> locate_threshold(
    const SweepCounts& counts, const Edges<typename F::Key>& edges, int64_t wanted, bool fits) {
  using Key = typename F::Key;
  const auto below = static_cast<int64_t>(counts.below);
  const auto ties_lo = static_cast<int64_t>(counts.ties_lo);
  const auto ties_hi = static_cast<int64_t>(counts.ties_hi);
  const auto between = static_cast<int64_t>(counts.between);
  const Key lo = edges.lo;
  const Key hi = edges.hi;
  const int64_t rank = wanted - below;
  const bool missed = rank < 0 || rank > ties_lo + between + ties_hi;
  if (missed || !fits) {
    return {Source::kEverything, whole_range<F>(wanted, static_cast<int64_t>(counts.active))};
  }
  if (rank <= ties_lo) return {Source::kCandidates, {lo, lo, below, rank, ties_lo}};
  const int64_t among = rank - ties_lo;
  if (among <= between) {
    return {Source::kCandidates, {lo + 1, hi - 1, below + ties_lo, among, between}};
  }
  return {Source::kCandidates, {hi, hi, below + ties_lo + between, among - between, ties_hi}};
}

// The same of this list alone, by the last block of the sweep.
template <class F>
__device__ __forceinline__ SweepResult<typename F::Key> locate_threshold(
    const TopkWork<F>& work, const SelectionOptions& options) {
  const SweepCounts& c = work.state->counts;
  const SweepCounts counts{load_fresh(&c.active), load_fresh(&c.below), load_fresh(&c.ties_lo),
                           load_fresh(&c.ties_hi), load_fresh(&c.between)};
  const bool fits = counts.between <= static_cast<unsigned long long>(work.room);
  const int64_t wanted = bounded_budget(options.amount, static_cast<int64_t>(counts.active));
  return locate_threshold<F>(counts, work.state->edges, wanted, fits);
}

}  // namespace fastprune::cuda
