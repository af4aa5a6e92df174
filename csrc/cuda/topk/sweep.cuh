// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the sweep:
// one pass that writes every entry as if the pivot were the threshold, counts, and stores the keys
// strictly between the edges as candidates. Keys equal to an edge are only counted: an edge tends
// to be a key of very many entries, which would fill the room for candidates.
//
// A block sweeps contiguous tiles, a batch of kBatchTiles between two barriers. Within a batch its
// warps do not wait for each other: they stage their candidates in shared memory.
#pragma once

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// What a block keeps in shared memory.
template <class F>
struct Staging {
  // The candidates of a batch.
  unsigned count;            // allocates room, and may exceed it
  unsigned full_at;          // if it does: how many are there
  unsigned long long begin;  // in the memory for candidates
  typename F::Bits keys[TopkPolicy::kStaged];
  uint16_t offsets[TopkPolicy::kStaged];
  unsigned edge_ties[TopkPolicy::kBatchTiles];
  // Ties of all batches.
  unsigned ties_lo;
  unsigned ties_hi;
};

// What a thread found in all of its tiles, far fewer than 2^32 entries.
struct Totals {
  unsigned active = 0;
  unsigned below = 0;
};

// The edges as the inner loop compares them, with raw_key(): a key's distance from `lo` is under
// `ties_lo` if it equals the lower edge, at least `ties_hi` if it equals or exceeds the upper one,
// and under `end` if it does not exceed it.
template <class F>
struct RawEdges {
  typename F::Key lo;
  typename F::Key ties_lo;
  typename F::Key ties_hi;
  typename F::Key end;

  __device__ __forceinline__ RawEdges(const Edges<typename F::Key>& edges, typename F::Key flip)
      : lo(raw_bound<F>(edges.lo, flip)),
        ties_lo(raw_bound<F>(edges.lo + 1, flip) - lo),
        ties_hi(raw_bound<F>(edges.hi, flip) - lo),
        end(raw_bound<F>(edges.hi + 1, flip) - lo) {}
};

// Entries of a lane's vector, a bit each.
struct Found {
  unsigned between;  // candidates
  unsigned ties_lo;
  unsigned ties_hi;
};

// Writes a vector, `left` entries of which are there, and counts what is under the edges. Raw keys
// under `limit` are pruned.
template <int N, class F, class M>
__device__ __forceinline__ Found sweep_vec(const Entries<N, F, M>& entries, M* out,
                                           typename F::Bits* product, int left,
                                           const RawEdges<F>& edges, typename F::Key limit,
                                           const SelectionOptions& options, Totals& totals) {
  using Key = typename F::Key;
  const Key flip = static_cast<Key>(options.flip);
  const auto scores = entries.scores.unpack();
  auto mask = entries.mask.unpack();
  unsigned active = 0;
  unsigned pruned = 0;
  unsigned inside = 0;
  Found found{0, 0, 0};
#pragma unroll
  for (int e = 0; e < N; ++e) {
    const bool on = is_active<F, M>(mask.at[e], options);
    const Key key = raw_key<F>(scores.at[e], flip);
    const Key distance = key - edges.lo;
    active |= static_cast<unsigned>(on) << e;
    pruned |= static_cast<unsigned>(on && key < limit) << e;
    inside |= static_cast<unsigned>(on && distance < edges.end) << e;
    found.ties_lo |= static_cast<unsigned>(on && distance < edges.ties_lo) << e;
    found.ties_hi |= static_cast<unsigned>(on && distance >= edges.ties_hi) << e;
    if (on && key < limit) mask.at[e] = M{0};
  }
  if (left <= 0) return {0, 0, 0};
  write<N, F, M>(out, product, left, mask, entries.t);
  const unsigned there = left < N ? (1u << left) - 1 : (1u << N) - 1;
  totals.active += __popc(active & there);
  totals.below += __popc(pruned & ~inside & there);
  found.ties_lo &= there;
  found.ties_hi &= inside & there & ~found.ties_lo;  // the edges may be one key
  found.between = inside & there & ~(found.ties_lo | found.ties_hi);
  return found;
}

// A lane stages its candidates, the entries of a vector with a bit in `between`. Returns false if
// there is no room; they are left for after flush() then. One atomic for each lane that has any, a
// sixth of them, takes fewer instructions than a ballot over all.
template <int N, class F>
__device__ __forceinline__ bool stage(Staging<F>& staging, unsigned between,
                                      const Packed<typename F::Bits, N>& scores,
                                      typename F::Key flip, int offset) {
  static_assert(TopkPolicy::kStaged >= N, "a lane has room if it is the first");
  if (between == 0) return true;
  const auto count = static_cast<unsigned>(__popc(between));
  unsigned at = atomicAdd(&staging.count, count);
  if (at + count > TopkPolicy::kStaged) {
    // Of the lanes that find no room, the first: those after it begin beyond.
    if (at <= TopkPolicy::kStaged) staging.full_at = at;
    return false;
  }
  for (; between != 0; between &= between - 1, ++at) {
    const int e = __ffs(static_cast<int>(between)) - 1;
    staging.keys[at] = static_cast<typename F::Bits>(rank_key<F>(scores.entry(e), flip));
    staging.offsets[at] = static_cast<uint16_t>(offset + e);
  }
  return true;
}

// The block writes the staged candidates to memory, if there is room, and clears them.
template <class F>
__device__ __forceinline__ void flush(Staging<F>& staging, const TopkWork<F>& work, int batch) {
  const unsigned count = staging.count <= TopkPolicy::kStaged ? staging.count : staging.full_at;
  const auto fits = [&](unsigned long long begin) {
    return begin + count <= static_cast<unsigned long long>(work.room);
  };
  if (threadIdx.x == 0 && count > 0) {
    const unsigned long long begin = atomicAdd(&work.state->counts.between, count + 0ull);
    staging.begin = begin;
    if (fits(begin)) {
      work.batches[atomicAdd(&work.state->batches, 1u)] = {batch, static_cast<unsigned>(begin),
                                                           count};
    }
  }
  __syncthreads();  // `begin` is written, and `count` has been read
  if (threadIdx.x == 0) staging.count = 0;
  if (count == 0 || !fits(staging.begin)) return;
  for (unsigned j = threadIdx.x; j < count; j += TopkPolicy::kThreads) {
    work.keys[staging.begin + j] = staging.keys[j];
    work.offsets[staging.begin + j] = staging.offsets[j];
  }
}

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

  // Entries are numbered from the first of the range; a warp's are in one tile. The vectors of a
  // step are loaded at the end of the step before it, so that they are under way at every barrier.
  static_assert(kTile % (32 * N) == 0, "a warp's vectors are in one tile");
  const int tiles = range.last - range.first;
  const auto flip = static_cast<typename F::Key>(options.flip);
  const RawEdges<F> raw_edges(edges, flip);
  const auto pivot_kept = raw_bound<F>(edges.pivot, flip);
  const auto pivot_pruned = raw_bound<F>(edges.pivot + 1, flip);
  TileWalk walk(list, range.first);
  int entry = static_cast<int>(threadIdx.x) * N;
  Entries<N, F, M> entries;
  Place place{};
  const auto load = [&] {
    if (entry >= tiles * kTile) return;
    place = walk.place(range.first + entry / kTile, entry % kTile);
    if (place.left <= 0) return;
    walk.with_item(place, [&](const TensorItem& item) {
      entries = load_entries<N, F, M>(span_at<typename F::Bits, M>(item, place.at, place.left), 0,
                                      options);
    });
  };
  load();
  Found found{0, 0, 0};
  bool pending = false;  // a lane's candidates found no room
  Totals totals;
  for (int batch = 0; batch < tiles; batch += TopkPolicy::kBatchTiles) {
    const int full = batch + TopkPolicy::kBatchTiles;
    const int end = full < tiles ? full : tiles;
    bool again = false;
    do {
      while (entry < end * kTile) {
        if (!pending) {
          M* out = nullptr;
          typename F::Bits* product = nullptr;
          walk.with_item(place, [&](const TensorItem& item) {
            out = static_cast<M*>(item.out) + place.at;
            product = advance(static_cast<typename F::Bits*>(item.product), place.at);
          });
          found = sweep_vec<N, F, M>(
              entries, out, product, place.left, raw_edges,
              range.first + entry / kTile < edges.pivot_tile ? pivot_pruned : pivot_kept, options,
              totals);
          unsigned ties = edge_ties(__popc(found.ties_lo), __popc(found.ties_hi));
          if (__any_sync(0xffffffffu, ties != 0)) {
            ties = warp_sum(ties);
            const int tile = entry / kTile - batch;
            if (threadIdx.x % 32 == 0) atomicAdd(&staging.edge_ties[tile], ties);
          }
        }
        const bool staged =
            stage<N, F>(staging, found.between, entries.scores, flip, entry - batch * kTile);
        if (staged) found.between = 0;
        pending = __any_sync(0xffffffffu, !staged) != 0;
        if (pending) break;
        entry += TopkPolicy::kThreads * N;
        load();
      }
      again = __syncthreads_or(pending) != 0;
      flush<F>(staging, work, range.first + batch);
      if (!again && static_cast<int>(threadIdx.x) < end - batch) {
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
