// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// bracket: draws a sample and finds the keys between which the threshold is expected.
#pragma once

#include <type_traits>

#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"

namespace fastprune::cuda {

// The key of one entry of a stretch, or no_key() if it is not active. The entry is picked pseudo-
// randomly, so that the sample cannot be in step with a period in the data.
template <class F, class M>
__device__ __forceinline__ typename F::Bits sampled_key(const TensorList& list,
                                                        const SelectionOptions& options,
                                                        int64_t stretch, int64_t slot) {
  uint64_t hash = (static_cast<uint64_t>(slot) + 1) * 0x9e3779b97f4a7c15ull;
  hash = (hash ^ (hash >> 29)) * 0xbf58476d1ce4e5b9ull;
  const int64_t at =
      slot * stretch + static_cast<int64_t>(((hash >> 32) * static_cast<uint64_t>(stretch)) >> 32);
  if (at >= list.entries) return no_key<F>();
  const TensorItem item = item_at<&TensorItem::first_entry>(list, at);
  const int64_t i = at - item.first_entry;
  const auto bits = static_cast<const typename F::Bits*>(item.scores)[i];
  if (item.mask != nullptr && !is_active<F, M>(static_cast<const M*>(item.mask)[i], options)) {
    return no_key<F>();
  }
  return static_cast<typename F::Bits>(
      rank_key<F>(bits, static_cast<typename F::Key>(options.flip)));
}

template <class F, class M>
__device__ __forceinline__ void take_sample(const TensorList& list, const SelectionOptions& options,
                                            const TopkWork<F>& work, int64_t first,
                                            int64_t stride) {
  for (int64_t slot = first; slot < work.sample_size; slot += TopkPolicy::kKeysInFlight * stride) {
    typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      const int64_t at = slot + j * stride;
      if (at < work.sample_size) keys[j] = sampled_key<F, M>(list, options, work.stretch, at);
    }
#pragma unroll
    for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
      if (slot + j * stride < work.sample_size) work.sample[slot + j * stride] = keys[j];
    }
  }
}

// One block selects the keys of three ranks at once, digit by digit: three histograms in shared
// memory, summed by one scan of counts packed in 21 bits each. Loops over the ranks are unrolled to
// keep the arrays in registers.
constexpr int kRanks = 3;
constexpr int kCountBits = 21;
static_assert(TopkPolicy::kSampleMost < int64_t{1} << (kCountBits - 1),
              "a sample has up to twice as many keys");

// Unrolls by hand: nvcc does not unroll a loop over the ranks that is inside another loop.
template <class Fn>
__device__ __forceinline__ void for_each_rank(const Fn& fn) {
  fn(std::integral_constant<int, 0>{});
  fn(std::integral_constant<int, 1>{});
  fn(std::integral_constant<int, 2>{});
}

__device__ __forceinline__ int64_t packed_count(unsigned long long packed, int r) {
  return static_cast<int64_t>(packed >> (r * kCountBits)) & ((int64_t{1} << kCountBits) - 1);
}

// The three ranks, counted from 1 and clamped to the sample.
__device__ __forceinline__ void clamp_ranks(const SampleRanks& ranks, int64_t active,
                                            int64_t (&wanted)[kRanks]) {
  const int64_t places[kRanks] = {ranks.low, ranks.pivot, ranks.high};
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    const int64_t place = places[r] < active ? places[r] : active - 1;
    wanted[r] = 1 + (place > 0 ? place : 0);
  }
}

template <class F>
__device__ __forceinline__ Edges<typename F::Key> sampled_edges(const TopkWork<F>& work,
                                                                const SelectionOptions& options,
                                                                int64_t total) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<unsigned long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int kPerThread = ceil_div(kBins, TopkPolicy::kThreads);
  FASTPRUNE_SHARED(unsigned[kRanks * kBins], bins);
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(Bracket<Key>[kRanks], found);
  SampleRanks ranks{};
  int64_t active = 0;
  Bracket<Key> bracket[kRanks];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) bracket[r] = {Key{0}, max_key<F>(), 0, 0, 0};
  for (int pass = 0; pass < kPasses<F>; ++pass) {
    const Digit digit = digit_of_pass(F::kKeyBits, TopkPolicy::kDigitBits, pass);
    // Ranks whose brackets are still the same share a histogram.
    int table[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      table[r] = r > 0 && bracket[r].lo == bracket[r - 1].lo ? table[r - 1] : r;
    }
    for (int b = threadIdx.x; b < kRanks * kBins; b += TopkPolicy::kThreads) bins[b] = 0;
    __syncthreads();
    Run run[kRanks];
    for (int64_t slot = threadIdx.x; slot < work.sample_size;
         slot += TopkPolicy::kKeysInFlight * TopkPolicy::kThreads) {
      typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
      for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
        const int64_t at = slot + j * TopkPolicy::kThreads;
        keys[j] = at < work.sample_size ? work.sample[at] : no_key<F>();
      }
#pragma unroll
      for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
        if (keys[j] == no_key<F>()) continue;
        const Key key = keys[j];
        for_each_rank([&](auto rank) {
          constexpr int r = decltype(rank)::value;
          if (table[r] != r || !in_bracket(key, bracket[r].lo, bracket[r].hi)) return;
          run[r].add(bins + r * kBins, static_cast<int>((key - bracket[r].lo) >> digit.shift));
        });
      }
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) run[r].flush(bins + r * kBins);
    __syncthreads();
    const int first = static_cast<int>(threadIdx.x) * kPerThread;
    const int end = first + kPerThread < kBins ? first + kPerThread : kBins;
    const auto bin = [&](int b, int r) { return int64_t{bins[table[r] * kBins + b]}; };
    unsigned long long mine = 0;
    for (int b = first; b < end; ++b) {
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        mine += static_cast<unsigned long long>(bin(b, r)) << (r * kCountBits);
      }
    }
    unsigned long long before = 0;
    unsigned long long all = 0;
    Scan(scan).ExclusiveSum(mine, before, all);
    if (pass == 0) {
      active = packed_count(all, 0);
      if (active == 0) return {Key{0}, max_key<F>(), max_key<F>()};
      ranks = sample_ranks(options.amount, total, work.stretch, active, TopkPolicy::kSampleSigmas);
      int64_t wanted[kRanks];
      clamp_ranks(ranks, active, wanted);
#pragma unroll
      for (int r = 0; r < kRanks; ++r) bracket[r].rank = wanted[r];
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      const int64_t under = packed_count(before, r);
      if (under >= bracket[r].rank || under + packed_count(mine, r) < bracket[r].rank) continue;
      found[r] = shrink_to_bin(bracket[r], digit, first, kPerThread, under,
                               [&](int b) { return bin(b, r); });
    }
    __syncthreads();  // `found` is written and the bins have been read
#pragma unroll
    for (int r = 0; r < kRanks; ++r) bracket[r] = found[r];
  }
  if (options.forced_miss != ForcedMiss::kNone) {
    const Key key = forced_miss_key<F>(options.forced_miss);
    return {key, key, key};
  }
  const Key lo = ranks.low >= 0 && ranks.low < active ? bracket[0].lo : Key{0};
  const Key hi = ranks.high < active ? bracket[2].lo : max_key<F>();
  Key pivot = bracket[1].lo;
  if (pivot <= lo) pivot = lo == hi ? lo : lo + 1;
  return {lo, pivot, hi};
}

// Clears what later kernels accumulate into.
template <class F>
__device__ __forceinline__ void clear_state(const TopkWork<F>& work) {
  constexpr int kAll = kBins * kPasses<F>;
  for (int b = threadIdx.x; b < kAll; b += TopkPolicy::kThreads) work.bins[b] = 0;
  if (threadIdx.x == 0) {
    auto* s = work.state;
    s->active = s->below = s->ties_lo = s->ties_hi = s->between = 0;
    s->arrived = 0;
  }
}

}  // namespace fastprune::cuda
