// Narrow: histograms of the next digit of what is still in the bracket, down to one key.
#pragma once

#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// A thread adds a run of equal bins at once: equal keys would else queue at one address.
struct Run {
  int bin = -1;
  unsigned count = 0;

  __device__ __forceinline__ void add(unsigned* bins, int b) {
    if (b != bin) {
      flush(bins);
      bin = b;
    }
    ++count;
  }
  __device__ __forceinline__ void flush(unsigned* bins) {
    if (count > 0) atomicAdd(&bins[bin], count);
    count = 0;
  }
};

__device__ __forceinline__ void clear_bins(unsigned* bins) {
  for (int b = threadIdx.x; b < kBins; b += TopkPolicy::kThreads) bins[b] = 0;
}

// The bracket's candidates by their next digit; block `first` of `stride` blocks takes its share.
template <class F>
__device__ __forceinline__ void count_candidates(const TopkWork<F>& work, int64_t count,
                                                 const Bracket<typename F::Key>& bracket,
                                                 Digit digit, int64_t first, int64_t stride,
                                                 unsigned* bins) {
  const int64_t step = stride * TopkPolicy::kThreads;
  Run run;
  for (int64_t i = first * TopkPolicy::kThreads + threadIdx.x; i < count;
       i += TopkPolicy::kKeysInFlight * step) {
    typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      keys[j] = i + j * step < count ? load_fresh(work.keys + i + j * step) : no_key<F>();
    }
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      const typename F::Key key = keys[j];
      if (keys[j] == no_key<F>() || !in_bracket(key, bracket.lo, bracket.hi)) continue;
      run.add(bins, static_cast<int>((key - bracket.lo) >> digit.shift));
    }
  }
  run.flush(bins);
}

// The same of all active entries.
template <class F, class M>
__device__ __forceinline__ void count_everything(const SegmentList& list,
                                                 const SelectionOptions& options,
                                                 const Bracket<typename F::Key>& bracket,
                                                 Digit digit, int64_t first, int64_t stride,
                                                 unsigned* bins) {
  using Key = typename F::Key;
  constexpr int kEntries = pack_entries<typename F::Bits, M>();
  constexpr int kLoads = kEntries < 8 ? 2 : 1;  // at once, as registers allow
  Run run;
  for (int64_t tile = first; tile < list.tiles; tile += stride) {
    const Span<F, M> span = tile_span<typename F::Bits, M>(list, tile);
    const auto load = [&](auto width, int i) {
      constexpr int n = decltype(width)::kEntries;
      struct {
        Pack<typename F::Bits, n> scores;
        Pack<M, n> old;
      } fetched{load_pack<n>(span.scores + i), old_mask<n, F, M>(span, i, options)};
      return fetched;
    };
    const auto count = [&](auto width, int, const auto& fetched) {
#pragma unroll
      for (int e = 0; e < decltype(width)::kEntries; ++e) {
        const Key key = rank_key<F>(fetched.scores.at[e], static_cast<Key>(options.flip));
        if (!in_bracket(key, bracket.lo, bracket.hi) ||
            !is_active<F, M>(fetched.old.at[e], options)) {
          continue;
        }
        run.add(bins, static_cast<int>((key - bracket.lo) >> digit.shift));
      }
    };
    for_each_pack<kEntries, kLoads, TopkPolicy::kThreads>(span.size, span.wide, load, count);
  }
  run.flush(bins);
}

// One block: the bracket cut down to the bin that the threshold lies in, for all threads.
// `count_of(bin)` is how many fall in it, `rank_of(total)` the rank among them. After it, the bins
// may be used again.
template <class Key, class CountOf, class RankOf>
__device__ __forceinline__ Bracket<Key> narrow_in_block(Bracket<Key> current, Digit digit,
                                                        const CountOf& count_of,
                                                        const RankOf& rank_of) {
  using Scan = cub::BlockScan<long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int kPerThread = (kBins + TopkPolicy::kThreads - 1) / TopkPolicy::kThreads;
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

// Every entry's bracket, before anything is known.
template <class F>
__device__ __forceinline__ Bracket<typename F::Key> whole_range(int64_t rank, int64_t active) {
  if (rank == 0) return {0, 0, 0, 0, 0};
  return {0, max_key<F>(), 0, rank, active};
}

// One block narrows down to the threshold by itself.
template <class F, class M>
__device__ __forceinline__ Bracket<typename F::Key> narrow_alone(const SegmentList& list,
                                                                 const SelectionOptions& options,
                                                                 const TopkWork<F>& work,
                                                                 Source source,
                                                                 Bracket<typename F::Key> bracket) {
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  while (bracket.lo != bracket.hi) {
    const Digit digit = digit_of_range(bracket.lo, bracket.hi, TopkPolicy::kDigitBits);
    clear_bins(bins);
    __syncthreads();
    if (source == Source::kCandidates) {
      const auto count = static_cast<int64_t>(load_fresh(&work.state->between));
      count_candidates<F>(work, count, bracket, digit, 0, 1, bins);
    } else {
      count_everything<F, M>(list, options, bracket, digit, 0, 1, bins);
    }
    __syncthreads();
    bracket = narrow_in_block(
        bracket, digit, [&](int b) { return static_cast<long long>(bins[b]); },
        [&](long long) { return bracket.rank; });
  }
  return bracket;
}

}  // namespace fastprune::cuda
