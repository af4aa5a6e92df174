// Sweep: one pass that writes every entry as if the threshold were the guess, counts, and keeps
// aside what lies strictly between the edges. `lo` and `hi` themselves are counted alone, so that
// keys of very many entries, which edges tend to be, take no room.
#pragma once

#include "topk_state.cuh"

namespace fastprune::cuda {

// What a thread found in a tile. The bits of `between` are its entries in the order it takes them.
struct Tally {
  unsigned ties_lo = 0;
  unsigned ties_hi = 0;
  unsigned between = 0;
  unsigned active = 0;
  unsigned below = 0;
};

// A thread takes packs of N entries, kTopkThreads packs apart.
template <int N>
constexpr int packs_of_thread() {
  return (kTile / kTopkThreads + N - 1) / N;
}

template <int N>
__device__ __forceinline__ int entry_of_bit(int bit) {
  return (bit / N * kTopkThreads + static_cast<int>(threadIdx.x)) * N + bit % N;
}

// The span's size is a multiple of N.
template <int N, class F, class M>
__device__ __forceinline__ Tally sweep_entries(const Span<F, M>& span,
                                               const Edges<typename F::Key>& edges,
                                               const SelectionOptions& options) {
  using Key = typename F::Key;
  constexpr int kPacks = packs_of_thread<N>();
  static_assert(kPacks * N <= 32, "a bit for each entry");
  const Key width = edges.hi - edges.lo;
  Pack<typename F::Bits, N> scores[kPacks];
  Pack<M, N> old[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = entry_of_bit<N>(p * N);
    if (i >= span.size) continue;
    scores[p] = load_pack<N>(span.scores + i);
    old[p] = old_mask<N, F, M>(span, i, options);
  }
  Tally tally;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = entry_of_bit<N>(p * N);
    if (i >= span.size) continue;
    Pack<M, N> values;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const Key key = rank_key<F>(scores[p].at[e], static_cast<Key>(options.flip));
      const bool active = is_active<F, M>(old[p].at[e], options);
      values.at[e] = active && key < edges.guess ? M{0} : old[p].at[e];
      tally.active += active;
      tally.below += active && key < edges.lo;
      const Key distance = key - edges.lo;
      if (active && distance <= width) {
        if (distance == 0) {
          ++tally.ties_lo;
        } else if (distance == width) {
          ++tally.ties_hi;
        } else {
          tally.between |= 1u << (p * N + e);
        }
      }
    }
    write<N, F, M>(span, i, values);
  }
  return tally;
}

// Whether a tile can be taken in packs of N.
template <class F, class M>
__device__ __forceinline__ bool in_packs(const Span<F, M>& span) {
  return span.wide && span.size % pack_entries<typename F::Bits, M>() == 0;
}

// A block sweeps tiles first, first + stride, ... With `totals` it adds what it counted to the
// state.
template <class F, class M>
__device__ __forceinline__ void sweep_tiles(const SegmentList& list,
                                            const SelectionOptions& options,
                                            const TopkWork<F>& work,
                                            const Edges<typename F::Key>& edges, bool totals,
                                            int64_t first, int64_t stride) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<unsigned long long, kTopkThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  using Reduce = cub::BlockReduce<unsigned long long, kTopkThreads>;
  constexpr int kEntries = pack_entries<typename F::Bits, M>();
  constexpr int kField = 16;  // bits of a count when three are added up in one scan
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  FASTPRUNE_SHARED(unsigned long long, shared_begin);
  unsigned long long active = 0;
  unsigned long long below = 0;
  unsigned long long ties_lo = 0;
  unsigned long long ties_hi = 0;
  for (int64_t tile = first; tile < list.tiles; tile += stride) {
    const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
    const bool packs = in_packs<F, M>(span);
    const Tally tally = packs ? sweep_entries<kEntries, F, M>(span, edges, options)
                              : sweep_entries<1, F, M>(span, edges, options);
    active += tally.active;
    below += tally.below;
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
    ties_lo += tile_lo;
    ties_hi += tile_hi;
    if (threadIdx.x == 0) {
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
  active = Reduce(reduce).Sum(active);
  __syncthreads();  // before `reduce` is used again
  below = Reduce(reduce).Sum(below);
  if (threadIdx.x == 0) {
    atomicAdd(&work.state->active, active);
    atomicAdd(&work.state->below, below);
    if (ties_lo > 0) atomicAdd(&work.state->ties_lo, ties_lo);
    if (ties_hi > 0) atomicAdd(&work.state->ties_hi, ties_hi);
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
  if (missed || overflow || options.force_miss) {
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
