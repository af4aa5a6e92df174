// Sweep: one pass that writes every entry as if the threshold were the guess, counts, and keeps
// aside what lies strictly between the edges. `lo` and `hi` themselves are counted alone, so that
// keys of very many entries, which edges tend to be, take no room.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// What a thread found in a tile. The bits of `between` are its entries in the order it takes them.
struct Tally {
  unsigned ties_lo = 0;
  unsigned ties_hi = 0;
  unsigned between = 0;
};

// What a thread found in all of its tiles, which are far less than 2^32 entries.
struct Totals {
  unsigned active = 0;
  unsigned below = 0;
};

// A thread takes packs of N entries, TopkPolicy::kThreads packs apart.
template <int N>
constexpr int packs_of_thread() {
  return (kTile / TopkPolicy::kThreads + N - 1) / N;
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
  constexpr int kPacks = packs_of_thread<N>();
  constexpr int kLoads =
      N == 1 && sizeof(Key) < 8 ? 4 : 2;  // under way at once, and as many of the mask
  static_assert(kPacks * N <= 32, "a bit for each entry");
  const Key width = edges.hi - edges.lo;
  Tally tally;
#pragma unroll 1
  for (int first = 0; first < kPacks; first += kLoads) {
    constexpr int kTogether = kLoads < kPacks ? kLoads : kPacks;
    Pack<typename F::Bits, N> scores[kTogether];
    Pack<M, N> old[kTogether];
#pragma unroll
    for (int p = 0; p < kTogether; ++p) {
      const int i = entry_of_bit<N>((first + p) * N);
      if (i >= span.size) continue;
      scores[p] = load_pack<N>(span.scores + i);
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
        if (key < edges.guess) old[p].at[e] = M{0};
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

// A block sweeps tiles first, first + stride, ... With `totals` it adds what it counted to the
// state. All of the block see its records after it: each is written before a barrier.
template <class F, class M>
__device__ __forceinline__ void sweep_tiles(const SegmentList& list,
                                            const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges, bool totals,
                                            int64_t first, int64_t stride) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<unsigned long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  using Reduce = cub::BlockReduce<unsigned long long, TopkPolicy::kThreads>;
  constexpr int kEntries = pack_entries<typename F::Bits, M>();
  constexpr int kField = 16;  // bits of a count when three are added up in one scan
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  FASTPRUNE_SHARED(unsigned long long, shared_begin);
  FASTPRUNE_SHARED(unsigned long long[2], ties);  // of lo and hi; the first thread's own
  if (threadIdx.x == 0) ties[0] = ties[1] = 0;
  Totals sums;
  for (int64_t tile = first; tile < list.tiles; tile += stride) {
    const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
    const bool packs = in_packs<F, M>(span);
    const Tally tally = packs ? sweep_entries<kEntries, F, M>(span, edges, options, sums)
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
      // One place taken for the whole tile; beyond the room it is counted, and nothing is kept.
      shared_begin = between > 0 ? atomicAdd(&work.state->between, between + 0ull) : 0;
      work.records[tile] = {static_cast<unsigned>(shared_begin), between, tile_lo, tile_hi};
    }
    __syncthreads();  // `shared_begin` is there, and `scan` may be used again
    if (shared_begin + between > static_cast<unsigned long long>(work.room)) continue;
    int64_t at = static_cast<int64_t>(shared_begin) + static_cast<int64_t>(before >> (2 * kField));
    for (unsigned left = tally.between; left != 0; left &= left - 1, ++at) {
      const int bit = __ffs(static_cast<int>(left)) - 1;
      const int i = packs ? entry_of_bit<kEntries>(bit) : entry_of_bit<1>(bit);
      work.keys[at] = static_cast<typename F::Bits>(
          rank_key<F>(span.scores[i], static_cast<Key>(options.flip)));
      work.offsets[at] = static_cast<uint16_t>(i);
    }
  }
  if (!totals) return;
  const unsigned long long active = Reduce(reduce).Sum(sums.active);
  __syncthreads();  // before `reduce` is used again
  const unsigned long long below = Reduce(reduce).Sum(sums.below);
  if (threadIdx.x == 0) {
    atomicAdd(&work.state->active, active);
    atomicAdd(&work.state->below, below);
    if (ties[0] > 0) atomicAdd(&work.state->ties_lo, ties[0]);
    if (ties[1] > 0) atomicAdd(&work.state->ties_hi, ties[1]);
  }
}

// What is known after the sweep: where the threshold is, or that the sample has misled.
template <class Key>
struct Verdict {
  Source source;
  Bracket<Key> bracket;
};

template <class F>
__device__ __forceinline__ Verdict<typename F::Key> verdict(const TopkWork<F>& work,
                                                            const SelectionOptions& options) {
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
  // The host refuses a count beyond `active`; until it has looked, stay within bounds.
  const int64_t budgeted = budget(options.amount, active);
  const int64_t wanted = budgeted < active ? budgeted : active;
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
