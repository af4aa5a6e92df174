// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the sweep:
// one pass that writes every entry as if the pivot were the threshold, counts, and stores the keys
// strictly between the edges as candidates. Keys equal to an edge are only counted: an edge tends
// to be a key of very many entries, which would fill the room for candidates.
#pragma once

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// What a thread found in a tile. `between` has a bit for each of its entries, in the order in which
// it processes them.
struct Tally {
  unsigned ties_lo = 0;
  unsigned ties_hi = 0;
  unsigned between = 0;
};

// What a thread found in all of its tiles, far fewer than 2^32 entries.
struct Totals {
  unsigned active = 0;
  unsigned below = 0;
};

// A thread processes vectors of N entries, TopkPolicy::kThreads vectors apart.
template <int N>
constexpr int vecs_per_thread() {
  return ceil_div(kTile / TopkPolicy::kThreads, N);
}

template <int N>
__device__ __forceinline__ int entry_of_bit(int bit) {
  return (bit / N * TopkPolicy::kThreads + static_cast<int>(threadIdx.x)) * N + bit % N;
}

// The span's size is a multiple of N.
template <int N, class F, class M>
__device__ __forceinline__ Tally sweep_entries(const Span<F, M>& span,
                                               const Edges<typename F::Key>& edges,
                                               const SelectionOptions& options, Totals& totals) {
  using Key = typename F::Key;
  constexpr int kVecs = vecs_per_thread<N>();
  constexpr int kLoads = N == 1 && sizeof(Key) < 8 ? 4 : 2;  // in flight, and as many of the mask
  static_assert(kVecs * N <= 32, "`between` has a bit for each entry");
  const Key width = edges.hi - edges.lo;
  Tally tally;
#pragma unroll 1
  for (int first = 0; first < kVecs; first += kLoads) {
    constexpr int kTogether = kLoads < kVecs ? kLoads : kVecs;
    Vec<typename F::Bits, N> scores[kTogether];
    Vec<M, N> old[kTogether];
#pragma unroll
    for (int p = 0; p < kTogether; ++p) {
      const int i = entry_of_bit<N>((first + p) * N);
      if (i >= span.size) continue;
      scores[p] = load_vec<N>(span.scores + i);
      old[p] = old_mask<N, F, M>(span, i, options);
    }
#pragma unroll
    for (int p = 0; p < kTogether; ++p) {
      const int i = entry_of_bit<N>((first + p) * N);
      if (i >= span.size) continue;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        if (!is_active<F, M>(old[p].at[e], options)) continue;
        const Key key = rank_key<F>(scores[p].at[e], static_cast<Key>(options.flip));
        const Key distance = key - edges.lo;
        ++totals.active;
        totals.below += key < edges.lo;
        if (key < edges.pivot) old[p].at[e] = M{0};
        if (distance > width) continue;
        if (distance == 0) {
          ++tally.ties_lo;
        } else if (distance == width) {
          ++tally.ties_hi;
        } else {
          tally.between |= 1u << ((first + p) * N + e);
        }
      }
      write<N, F, M>(span, i, old[p]);
    }
  }
  return tally;
}

// A block sweeps tiles first, first + stride, ... With `totals` it adds its counts to the state.
// Afterwards all of its threads see its records: each is written before a barrier.
template <class F, class M>
__device__ __forceinline__ void sweep_tiles(const TensorList& list, const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges, bool totals,
                                            int64_t first, int64_t stride) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<unsigned long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  using Reduce = cub::BlockReduce<unsigned long long, TopkPolicy::kThreads>;
  constexpr int kEntries = vec_entries<typename F::Bits, M>();
  constexpr int kField = 16;  // bits of each of three counts that one scan sums
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  FASTPRUNE_SHARED(unsigned long long, shared_begin);
  FASTPRUNE_SHARED(unsigned long long[2], ties);  // of lo and hi; only thread 0 uses them
  if (threadIdx.x == 0) ties[0] = ties[1] = 0;
  Totals sums;
  for (int64_t tile = first; tile < list.tiles; tile += stride) {
    const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
    const bool vectorized = is_vectorized<F, M>(span);
    const Tally tally = vectorized ? sweep_entries<kEntries, F, M>(span, edges, options, sums)
                                   : sweep_entries<1, F, M>(span, edges, options, sums);
    const unsigned long long mine =
        tally.ties_lo | static_cast<unsigned long long>(tally.ties_hi) << kField |
        static_cast<unsigned long long>(__popc(tally.between)) << (2 * kField);
    unsigned long long before = 0;
    unsigned long long all = 0;
    Scan(scan).ExclusiveSum(mine, before, all);
    constexpr unsigned kMask = (1u << kField) - 1;
    const auto tile_lo = static_cast<unsigned>(all) & kMask;
    const auto tile_hi = static_cast<unsigned>(all >> kField) & kMask;
    const auto between = static_cast<unsigned>(all >> (2 * kField));
    if (threadIdx.x == 0) {
      ties[0] += tile_lo;
      ties[1] += tile_hi;
      // One atomic allocates for the whole tile. Beyond the room, candidates are only counted.
      shared_begin = between > 0 ? atomicAdd(&work.state->between, between + 0ull) : 0;
      work.records[tile] = {static_cast<unsigned>(shared_begin), between, tile_lo, tile_hi};
    }
    __syncthreads();  // `shared_begin` is written, and `scan` may be reused
    if (shared_begin + between > static_cast<unsigned long long>(work.room)) continue;
    int64_t at = static_cast<int64_t>(shared_begin) + static_cast<int64_t>(before >> (2 * kField));
    for (unsigned left = tally.between; left != 0; left &= left - 1, ++at) {
      const int bit = __ffs(static_cast<int>(left)) - 1;
      const int i = vectorized ? entry_of_bit<kEntries>(bit) : entry_of_bit<1>(bit);
      work.keys[at] = static_cast<typename F::Bits>(
          rank_key<F>(span.scores[i], static_cast<Key>(options.flip)));
      work.offsets[at] = static_cast<uint16_t>(i);
    }
  }
  if (!totals) return;
  const unsigned long long active = Reduce(reduce).Sum(sums.active);
  __syncthreads();  // before `reduce` is reused
  const unsigned long long below = Reduce(reduce).Sum(sums.below);
  if (threadIdx.x == 0) {
    atomicAdd(&work.state->active, active);
    atomicAdd(&work.state->below, below);
    if (ties[0] > 0) atomicAdd(&work.state->ties_lo, ties[0]);
    if (ties[1] > 0) atomicAdd(&work.state->ties_hi, ties[1]);
  }
}

// Where the threshold is, as the sweep's counts tell: among the candidates, or, if the bracket
// missed it or the candidates had no room, among all entries.
template <class Key>
struct SweepResult {
  Source source;
  Bracket<Key> bracket;
};

template <class F>
__device__ __forceinline__ SweepResult<typename F::Key> locate_threshold(
    const TopkWork<F>& work, const SelectionOptions& options) {
  using Key = typename F::Key;
  const auto* s = work.state;
  const auto fresh = [](const unsigned long long* p) {
    return static_cast<int64_t>(load_fresh(p));
  };
  const int64_t active = fresh(&s->active);
  const int64_t below = fresh(&s->below);
  const int64_t ties_lo = fresh(&s->ties_lo);
  const int64_t ties_hi = fresh(&s->ties_hi);
  const int64_t between = fresh(&s->between);
  const Key lo = s->edges.lo;
  const Key hi = s->edges.hi;
  const int64_t wanted = bounded_budget(options.amount, active);
  const int64_t rank = wanted - below;
  const bool missed = rank < 0 || rank > ties_lo + between + ties_hi;
  const bool overflow = between > work.room;
  if (missed || overflow) {
    return {Source::kEverything, whole_range<F>(wanted, active)};
  }
  if (rank <= ties_lo) return {Source::kCandidates, {lo, lo, below, rank, ties_lo}};
  const int64_t among = rank - ties_lo;
  if (among <= between) {
    return {Source::kCandidates, {lo + 1, hi - 1, below + ties_lo, among, between}};
  }
  return {Source::kCandidates, {hi, hi, below + ties_lo + between, among - between, ties_hi}};
}

}  // namespace fastprune::cuda
