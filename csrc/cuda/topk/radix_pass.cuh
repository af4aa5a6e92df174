// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the radix
// passes: each one histograms the next digit of the keys in the bracket and keeps one bin, until
// one key is left.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// Bins in shared memory, `count` of them.
__device__ __forceinline__ void clear_bins(unsigned* bins, int count) {
  for (int b = threadIdx.x; b < count; b += TopkPolicy::kThreads) bins[b] = 0;
}

// Adds them to those in memory.
__device__ __forceinline__ void add_bins(const unsigned* bins, int count, unsigned long long* all) {
  for (int b = threadIdx.x; b < count; b += TopkPolicy::kThreads) {
    if (bins[b] > 0) atomicAdd(&all[b], static_cast<unsigned long long>(bins[b]));
  }
}

// The bins of the next digit of the keys in a bracket.
template <class Key>
struct DigitBins {
  Bracket<Key> bracket;
  Digit digit;

  // The bin of a key, or -1 if it is in none.
  __device__ __forceinline__ int operator()(Key key) const {
    if (!in_bracket(key, bracket.lo, bracket.hi)) return -1;
    return static_cast<int>((key - bracket.lo) >> digit.shift);
  }
};

// Adds 1 to the bin that `bin_of` says. The constant, without use of the old value: the hardware
// adds equal bins of a warp at once.
template <class BinOf, class Key>
__device__ __forceinline__ void count_key(const BinOf& bin_of, Key key, unsigned* bins) {
  const int bin = bin_of(key);
  if (bin >= 0) atomicAdd(&bins[bin], 1u);
}

// Counts the candidates. The work is strided over `stride` blocks, of which this is number `first`.
template <class F, class BinOf>
__device__ __forceinline__ void count_candidates(const TopkWork<F>& work, int64_t count,
                                                 const BinOf& bin_of, int64_t first, int64_t stride,
                                                 unsigned* bins) {
  const int64_t step = stride * TopkPolicy::kThreads;
  for (int64_t i = first * TopkPolicy::kThreads + threadIdx.x; i < count;
       i += TopkPolicy::kKeysInFlight * step) {
    typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      keys[j] = i + j * step < count ? load_fresh(work.keys + i + j * step) : no_key<F>();
    }
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      if (keys[j] != no_key<F>()) count_key(bin_of, static_cast<typename F::Key>(keys[j]), bins);
    }
  }
}

// Calls fn(tile, offset in the tile, key) for the active entries of a range of tiles.
template <class F, class M, class Fn>
__device__ __forceinline__ void for_each_active(const TensorList& list,
                                                const SelectionOptions& options, TileRange tiles,
                                                const Fn& fn) {
  using Key = typename F::Key;
  constexpr int kEntries = vec_entries<typename F::Bits, M>();
  constexpr int kLoads = kEntries < 8 ? 2 : 1;  // in flight, as registers allow
  TileWalk walk(list, tiles.first);
  for (int tile = tiles.first; tile < tiles.last; ++tile) {
    const Span<F, M> span = walk.span<typename F::Bits, M>(tile);
    const auto load = [&](auto width, int i) {
      constexpr int n = decltype(width)::kEntries;
      struct {
        Packed<typename F::Bits, n> scores;
        Packed<M, n> old;
      } fetched{load_scores<n, F, M>(span, i, n), old_mask<n, F, M>(span, i, options)};
      return fetched;
    };
    const auto use = [&](auto width, int i, const auto& fetched) {
      const auto scores = fetched.scores.unpack();
      const auto old = fetched.old.unpack();
#pragma unroll
      for (int e = 0; e < decltype(width)::kEntries; ++e) {
        if (!is_active<F, M>(old.at[e], options)) continue;
        fn(tile, i + e, rank_key<F>(scores.at[e], static_cast<Key>(options.flip)));
      }
    };
    for_each_vec<kEntries, kLoads, TopkPolicy::kThreads>(span.size, span.vectorized, load, use);
  }
}

// Counts the active entries of a range of tiles.
template <class F, class M, class BinOf>
__device__ __forceinline__ void count_everything(const TensorList& list,
                                                 const SelectionOptions& options,
                                                 const BinOf& bin_of, TileRange tiles,
                                                 unsigned* bins) {
  using Key = typename F::Key;
  for_each_active<F, M>(list, options, tiles,
                        [&](int, int, Key key) { count_key(bin_of, key, bins); });
}

// Counts the candidates or all active entries, as `source` says: the share of one of `blocks`.
template <class F, class M, class BinOf>
__device__ __forceinline__ void count_source(const TensorList& list,
                                             const SelectionOptions& options,
                                             const TopkWork<F>& work, Source source,
                                             const BinOf& bin_of, unsigned block, unsigned blocks,
                                             unsigned* bins) {
  if (source == Source::kCandidates) {
    const auto count = static_cast<int64_t>(load_fresh(&work.state->counts.between));
    count_candidates<F>(work, count, bin_of, block, blocks, bins);
  } else {
    count_everything<F, M>(list, options, bin_of, share_of_tiles(list.tiles, block, blocks), bins);
  }
}

// One block: returns the bracket narrowed to the bin that holds the threshold, to all threads.
// `count_of(bin)` is the bin's count, `rank_of(total)` the threshold's rank among all `total` of
// them. The bins may be reused afterwards.
template <class Key, class CountOf, class RankOf>
__device__ __forceinline__ Bracket<Key> choose_bin(Bracket<Key> current, Digit digit,
                                                   const CountOf& count_of, const RankOf& rank_of) {
  using Scan = cub::BlockScan<long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int kPerThread = ceil_div(kBins, TopkPolicy::kThreads);
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(Bracket<Key>, found);
  const int first = static_cast<int>(threadIdx.x) * kPerThread;
  long long counts[kPerThread];
  long long mine = 0;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    counts[j] = first + j < kBins ? count_of(first + j) : 0;
    mine += counts[j];
  }
  long long before = 0;
  long long total = 0;
  Scan(scan).ExclusiveSum(mine, before, total);
  current.rank = rank_of(total);
  if (current.rank == 0) {  // nothing is to be pruned
    if (threadIdx.x == 0) found = {current.lo, current.lo, current.below, 0, 0};
  } else if (before < current.rank && current.rank <= before + mine) {  // true in one thread
    found = shrink_to_bin(current, digit, first, kPerThread, before,
                          [&](int bin) { return int64_t{counts[bin - first]}; });
  }
  __syncthreads();
  return found;
}

// The bracket of all keys.
template <class F>
__device__ __forceinline__ Bracket<typename F::Key> whole_range(int64_t rank, int64_t active) {
  if (rank == 0) return {0, 0, 0, 0, 0};
  return {0, max_key<F>(), 0, rank, active};
}

// One block: radix passes until the bracket is one key, the threshold. `count(bin_of, bins)` counts
// the keys that have a bin; `rank_of(total)` is the rank in the first bracket, given the number of
// keys in it.
template <class Key, class Count, class RankOf>
__device__ __forceinline__ Bracket<Key> radix_select_in_block(Bracket<Key> bracket,
                                                              const Count& count,
                                                              const RankOf& rank_of) {
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  for (int pass = 0; bracket.lo != bracket.hi; ++pass) {
    const Digit digit = digit_of_range(bracket.lo, bracket.hi, TopkPolicy::kDigitBits);
    clear_bins(bins, kBins);
    __syncthreads();
    count(DigitBins<Key>{bracket, digit}, bins);
    __syncthreads();
    bracket = choose_bin(
        bracket, digit, [&](int b) { return static_cast<long long>(bins[b]); },
        [&](long long total) { return pass == 0 ? rank_of(total) : bracket.rank; });
  }
  return bracket;
}

}  // namespace fastprune::cuda
