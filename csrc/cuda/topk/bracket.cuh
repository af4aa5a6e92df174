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
  const auto span = span_at<typename F::Bits, M>(item, i, 1);
  const auto bits = load_scores<1, F, M>(span, 0, 1).unpack().at[0];
  if (item.mask != nullptr) {
    const M old = load_vec<1>(static_cast<const M*>(item.mask) + i).at[0];
    if (!is_active<F, M>(old, options)) return no_key<F>();
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

// Where the key of a rank is: one of lo, lo + 1, ..., as many as the digits not yet read tell
// apart. `rank`: its rank there, counted from 1.
template <class Key>
struct RankSearch {
  Key lo;
  int rank;
};

// The three ranks, clamped to the sample.
template <class Key>
__device__ __forceinline__ void set_ranks(const SampleRanks& ranks, int64_t active,
                                          RankSearch<Key> (&search)[kRanks]) {
  const int64_t places[kRanks] = {ranks.low, ranks.pivot, ranks.high};
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    const int64_t place = places[r] < active ? places[r] : active - 1;
    search[r].rank = 1 + static_cast<int>(place > 0 ? place : 0);
  }
}

// One block: the slot of the sample's `rank`th key, counted from 1, among those that equal `key`.
template <class F>
__device__ __forceinline__ int64_t slot_of_tie(const TopkWork<F>& work, typename F::Key key,
                                               int64_t rank) {
  using Scan = cub::BlockScan<int, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(int, found);
  const int size = static_cast<int>(work.sample_size);
  const int each = ceil_div(size, TopkPolicy::kThreads);
  const int first = each * static_cast<int>(threadIdx.x);
  const int last = first + each < size ? first + each : size;
  const auto is_tie = [&](int slot) {
    return work.sample[slot] == static_cast<typename F::Bits>(key);
  };
  int ties = 0;
#pragma unroll 8
  for (int slot = first; slot < last; ++slot) ties += is_tie(slot);
  int before = 0;
  Scan(scan).ExclusiveSum(ties, before);
  if (before < rank && rank <= before + ties) {  // true in one thread
    int slot = first;
    for (int64_t left = rank - before; left > is_tie(slot); ++slot) left -= is_tie(slot);
    found = slot;
  }
  __syncthreads();
  return found;
}

// One block.
template <class F>
__device__ __forceinline__ Edges<typename F::Key> sampled_edges(const TensorList& list,
                                                                const TopkWork<F>& work,
                                                                const SelectionOptions& options) {
  using Key = typename F::Key;
  using Scan = cub::BlockScan<unsigned long long, TopkPolicy::kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int kPerThread = ceil_div(kBins, TopkPolicy::kThreads);
  const int size = static_cast<int>(work.sample_size);
  FASTPRUNE_SHARED(unsigned[kRanks * kBins], bins);
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(RankSearch<Key>[kRanks], found);
  SampleRanks ranks{};
  int64_t active = 0;
  RankSearch<Key> search[kRanks];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) search[r] = {Key{0}, 0};
  Key width = max_key<F>();
  for (int pass = 0; pass < kPasses<F>; ++pass) {
    const Digit digit = digit_of_pass(F::kKeyBits, TopkPolicy::kDigitBits, pass);
    // Ranks that are still searched for in the same place share a histogram.
    int table[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      table[r] = r > 0 && search[r].lo == search[r - 1].lo ? table[r - 1] : r;
    }
    for (int b = threadIdx.x; b < kRanks * kBins; b += TopkPolicy::kThreads) bins[b] = 0;
    __syncthreads();
    for (int slot = static_cast<int>(threadIdx.x); slot < size;
         slot += TopkPolicy::kKeysInFlight * TopkPolicy::kThreads) {
      typename F::Bits keys[TopkPolicy::kKeysInFlight];
#pragma unroll
      for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
        const int at = slot + j * TopkPolicy::kThreads;
        keys[j] = at < size ? work.sample[at] : no_key<F>();
      }
#pragma unroll
      for (int j = 0; j < TopkPolicy::kKeysInFlight; ++j) {
        if (keys[j] == no_key<F>()) continue;
        const Key key = keys[j];
        for_each_rank([&](auto rank) {
          constexpr int r = decltype(rank)::value;
          if (table[r] != r || key - search[r].lo > width) return;
          atomicAdd(&bins[r * kBins + static_cast<int>((key - search[r].lo) >> digit.shift)], 1u);
        });
      }
    }
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
      if (active == 0) return {Key{0}, max_key<F>(), max_key<F>(), 0};
      ranks = sample_ranks(options.amount, list.entries, static_cast<double>(work.stretch), active,
                           TopkPolicy::kSampleSigmas);
      set_ranks(ranks, active, search);
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      const int64_t under = packed_count(before, r);
      if (under >= search[r].rank || under + packed_count(mine, r) < search[r].rank) continue;
      const Bracket<Key> in_bin =
          shrink_to_bin(Bracket<Key>{search[r].lo, 0, 0, search[r].rank, 0}, digit, first,
                        kPerThread, under, [&](int b) { return bin(b, r); });
      found[r] = {in_bin.lo, static_cast<int>(in_bin.rank)};
    }
    __syncthreads();  // `found` is written and the bins have been read
#pragma unroll
    for (int r = 0; r < kRanks; ++r) search[r] = found[r];
    width = (Key{1} << digit.shift) - 1;
  }
  if (options.forced_miss != ForcedMiss::kNone) {
    const Key key = forced_miss_key<F>(options.forced_miss);
    return {key, key, key, 0};
  }
  const Key lo = ranks.low >= 0 && ranks.low < active ? search[0].lo : Key{0};
  const Key hi = ranks.high < active ? search[2].lo : max_key<F>();
  const Key pivot = search[1].lo;
  if (pivot != lo && pivot != hi) return {lo, pivot, hi, 0};
  // The sample is in the order of the entries, so it also tells up to which tile ties are pruned.
  const int64_t at = slot_of_tie<F>(work, pivot, search[1].rank) * work.stretch;
  const TensorItem item = item_at<&TensorItem::first_entry>(list, at);
  return {lo, pivot, hi, static_cast<Key>(item.first_tile + (at - item.first_entry) / kTile)};
}

// Clears what later kernels accumulate into.
template <class F>
__device__ __forceinline__ void clear_state(const TopkWork<F>& work) {
  constexpr int kAll = kBins * kPasses<F>;
  for (int b = threadIdx.x; b < kAll; b += TopkPolicy::kThreads) work.bins[b] = 0;
  if (threadIdx.x == 0) {
    auto* s = work.state;
    s->counts = {0, 0, 0, 0, 0};
    s->batches = s->arrived = 0;
  }
}

}  // namespace fastprune::cuda
