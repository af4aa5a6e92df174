// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the sweep:
// one pass that writes every entry as if the pivot were the threshold, counts, and stores the keys
// strictly between the edges as candidates. Keys equal to an edge are only counted: an edge tends
// to be a key of very many entries, which would fill the room for candidates.
//
// A block sweeps contiguous tiles, a batch of kBatchTiles between two barriers. Within a batch its
// warps do not wait for each other: each stages its candidates in shared memory, with one atomic
// for all of its lanes, while the loads of its next entries are under way.
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

// Stages a warp's candidates: the entries of the vector with a bit in `between`. Returns false, in
// all lanes, and stages nothing if there is no room.
template <int N, class F>
__device__ __forceinline__ bool stage(Staging<F>& staging, unsigned between,
                                      const Vec<typename F::Bits, N>& scores, typename F::Key flip,
                                      int offset) {
  constexpr int kCountBits = N < 2 ? 1 : N < 4 ? 2 : N < 8 ? 3 : 4;  // of 0 to N
  static_assert(N <= 8 && TopkPolicy::kStaged >= 32 * N, "a warp has room if it is the first");
  const auto own = static_cast<unsigned>(__popc(between));
  const unsigned lane = threadIdx.x % 32;
  unsigned before = 0;
  unsigned total = 0;
#pragma unroll
  for (int bit = 0; bit < kCountBits; ++bit) {
    const unsigned lanes = __ballot_sync(0xffffffffu, static_cast<int>(own >> bit & 1));
    before += static_cast<unsigned>(__popc(lanes & ((1u << lane) - 1))) << bit;
    total += static_cast<unsigned>(__popc(lanes)) << bit;
  }
  if (total == 0) return true;
  unsigned at = 0;
  if (lane == 0) {
    at = atomicAdd(&staging.count, total);
    // Of the warps that find no room, the first: those after it begin beyond.
    if (at <= TopkPolicy::kStaged && at + total > TopkPolicy::kStaged) staging.full_at = at;
  }
  at = __shfl_sync(0xffffffffu, at, 0);
  if (at + total > TopkPolicy::kStaged) return false;
  at += before;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    if ((between >> e & 1) == 0) continue;
    staging.keys[at] = static_cast<typename F::Bits>(rank_key<F>(scores.at[e], flip));
    staging.offsets[at] = static_cast<uint16_t>(offset + e);
    ++at;
  }
  return true;
}

// A warp writes a vector of each lane, `left` entries of which are there, and counts. Returns which
// of the lane's entries are candidates. `bound`: keys under it are pruned. `ties`: of the tile.
template <int N, class F, class M>
__device__ __forceinline__ unsigned sweep_vec(const Entries<N, F, M>& entries, M* out,
                                              typename F::Bits* product, int left,
                                              const Edges<typename F::Key>& edges,
                                              typename F::Key bound,
                                              const SelectionOptions& options, unsigned* ties,
                                              Totals& totals) {
  using Key = typename F::Key;
  const Key flip = static_cast<Key>(options.flip);
  const Key width = edges.hi - edges.lo;
  const auto scores = entries.scores.unpack();
  auto mask = entries.mask.unpack();
  // A bit an entry.
  unsigned active = 0;
  unsigned below = 0;
  unsigned inside = 0;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    if (e >= left || !is_active<F, M>(mask.at[e], options)) continue;
    const Key key = rank_key<F>(scores.at[e], flip);
    active |= 1u << e;
    below |= static_cast<unsigned>(key < edges.lo) << e;
    inside |= static_cast<unsigned>(static_cast<Key>(key - edges.lo) <= width) << e;
    if (key < bound) mask.at[e] = M{0};
  }
  if (left > 0) write<N, F, M>(out, product, left, mask, entries.t);
  totals.active += __popc(active);
  totals.below += __popc(below);
  unsigned between = inside;
  unsigned mine = 0;
  if (inside != 0) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const Key key = rank_key<F>(scores.at[e], flip);
      const bool lo = key == edges.lo;
      if ((inside >> e & 1) == 0 || (!lo && key != edges.hi)) continue;
      between &= ~(1u << e);
      mine += lo ? edge_ties(1, 0) : edge_ties(0, 1);
    }
  }
  if (__any_sync(0xffffffffu, mine != 0)) {
    mine = warp_sum(mine);
    if (threadIdx.x % 32 == 0) atomicAdd(ties, mine);
  }
  return between;
}

// The block writes the staged candidates to memory, if there is room, and clears them.
template <class F>
__device__ __forceinline__ void flush(Staging<F>& staging, const TopkWork<F>& work, int64_t batch) {
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

  // The next vector, which is loaded while the one before it is processed. Entries are numbered
  // from the first of the range; a warp's are in one tile.
  static_assert(kTile % (32 * N) == 0, "a warp's vectors are in one tile");
  const auto tiles = static_cast<int>(range.last - range.first);
  const auto before_pivot = static_cast<int>(  // tiles that prune what equals the pivot
      edges.pivot_tile <= range.first ? 0
      : edges.pivot_tile < range.last ? edges.pivot_tile - range.first
                                      : tiles);
  TileWalk walk(list, range.first);
  int entry = static_cast<int>(threadIdx.x) * N;
  Entries<N, F, M> next;
  const auto load = [&] {
    if (entry >= tiles * kTile) return;
    const Span<F, M> span = walk.span<typename F::Bits, M>(range.first + entry / kTile);
    if (entry % kTile < span.size) {
      next = load_entries<N, F, M>(span, entry % kTile, options);
    }
  };
  load();
  // The lane's last candidates, and whether they found no room yet.
  Packed<typename F::Bits, N> scores;
  unsigned between = 0;
  int offset = 0;
  bool pending = false;
  Totals totals;
  for (int batch = 0; batch < tiles; batch += TopkPolicy::kBatchTiles) {
    const int full = batch + TopkPolicy::kBatchTiles;
    const int end = full < tiles ? full : tiles;
    bool again = false;
    do {
      while (pending || entry < end * kTile) {
        if (!pending) {
          const Entries<N, F, M> entries = next;
          const int tile = entry / kTile;
          const int at = entry % kTile;
          const Span<F, M> span = walk.span<typename F::Bits, M>(range.first + tile);
          const auto bound = edges.pivot + static_cast<typename F::Key>(tile < before_pivot);
          offset = entry - batch * kTile;
          entry += TopkPolicy::kThreads * N;
          load();
          between =
              sweep_vec<N, F, M>(entries, span.out + at, advance(span.product, at), span.size - at,
                                 edges, bound, options, staging.edge_ties + offset / kTile, totals);
          scores = entries.scores;
        }
        pending = !stage<N, F>(staging, between, scores.unpack(),
                               static_cast<typename F::Key>(options.flip), offset);
        if (pending) break;
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
