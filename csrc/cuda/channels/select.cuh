// Selects the channels to prune. One block does it: there are few scores.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cuda/util/budget.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/ties.cuh"

namespace fastprune::cuda {

struct ChannelScores {
  const uint64_t* bits;   // of float64 scores
  const uint64_t* flags;  // non-zero: the channel is active; nullptr: all are
  int64_t count;

  __device__ __forceinline__ bool active(int64_t c) const {
    return flags == nullptr || flags[c] != 0;
  }
  __device__ __forceinline__ uint64_t key(int64_t c) const { return rank_key<Fp64>(bits[c], 0); }
};

// The last channel to prune, in order of key, then index: all active channels up to it are pruned.
// prunes() may say either of an inactive channel, which is all zeros already.
struct LastChannel {
  uint64_t key;
  int64_t channel;
  int64_t active;  // number of active channels

  __device__ __forceinline__ bool prunes(const ChannelScores& scores, int64_t c) const {
    const uint64_t own = scores.key(c);
    return own < key || (own == key && c <= channel);
  }
};

struct KeyRange {
  uint64_t lo;
  uint64_t hi;
  int64_t count;
};

struct JoinRanges {
  __device__ __forceinline__ KeyRange operator()(const KeyRange& a, const KeyRange& b) const {
    return {a.lo < b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi, a.count + b.count};
  }
};

// The block calls fn(channel, key) for the active channels in the bracket.
template <int kBlock, class Fn>
__device__ __forceinline__ void for_each_inside(const ChannelScores& scores,
                                                const Bracket<uint64_t>& b, const Fn& fn) {
#pragma unroll 4
  for (int64_t c = threadIdx.x; c < scores.count; c += kBlock) {
    const uint64_t key = scores.key(c);
    if (in_bracket(key, b.lo, b.hi) && scores.active(c)) fn(c, key);
  }
}

// The first bracket: from the lowest active key to the highest. Rank 0: nothing is to be pruned.
template <int kBlock>
__device__ __forceinline__ void bracket_all(const ChannelScores& scores, const Amount& amount,
                                            Bracket<uint64_t>& bracket, LastChannel& last) {
  using Reduce = cub::BlockReduce<KeyRange, kBlock>;
  FASTPRUNE_SHARED(typename Reduce::TempStorage, reduce);
  KeyRange own{max_key<Fp64>(), 0, 0};
  for_each_inside<kBlock>(scores, {0, max_key<Fp64>(), 0, 0, 0},
                          [&](int64_t, uint64_t key) { own = JoinRanges()(own, {key, key, 1}); });
  const KeyRange all = Reduce(reduce).Reduce(own, JoinRanges());
  if (threadIdx.x == 0) {
    bracket = {all.lo, all.hi, 0, bounded_budget(amount, all.count), all.count};
    last = {0, -1, all.count};
  }
  __syncthreads();
}

// Narrows the bracket to one bin of a histogram of its keys' next digit.
template <int kBlock>
__device__ __forceinline__ void radix_pass(const ChannelScores& scores,
                                           Bracket<uint64_t>& bracket) {
  using Scan = cub::BlockScan<int64_t, kBlock>;
  constexpr int kBins = 1 << ChannelsPolicy::kDigitBits;
  constexpr int kPerThread = ceil_div(kBins, kBlock);
  FASTPRUNE_SHARED(typename Scan::TempStorage, scan);
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  const Bracket<uint64_t> current = bracket;
  const Digit digit = digit_of_range(current.lo, current.hi, ChannelsPolicy::kDigitBits);
  for (int b = threadIdx.x; b < kBins; b += kBlock) bins[b] = 0;
  __syncthreads();
  for_each_inside<kBlock>(scores, current, [&](int64_t, uint64_t key) {
    atomicAdd(&bins[(key - current.lo) >> digit.shift], 1u);
  });
  __syncthreads();
  const int first = static_cast<int>(threadIdx.x) * kPerThread;
  int64_t own = 0;
  for (int b = first; b < first + kPerThread && b < kBins; ++b) own += bins[b];
  int64_t before = 0;
  Scan(scan).ExclusiveSum(own, before);
  if (before < current.rank && current.rank <= before + own) {  // true in one thread
    bracket = shrink_to_bin(current, digit, first, kPerThread, before,
                            [&](int b) { return static_cast<int64_t>(bins[b]); });
  }
  __syncthreads();
}

// At most kBlock channels are left: each thread ranks one.
template <int kBlock>
__device__ __forceinline__ void rank_channels(const ChannelScores& scores,
                                              const Bracket<uint64_t>& bracket, LastChannel& last) {
  FASTPRUNE_SHARED(uint64_t[kBlock], keys);
  FASTPRUNE_SHARED(int64_t[kBlock], channels);
  FASTPRUNE_SHARED(int, gathered);
  if (threadIdx.x == 0) gathered = 0;
  __syncthreads();
  for_each_inside<kBlock>(scores, bracket, [&](int64_t c, uint64_t key) {
    const int at = atomicAdd(&gathered, 1);
    keys[at] = key;
    channels[at] = c;
  });
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < gathered) {
    const uint64_t key = keys[threadIdx.x];
    const int64_t channel = channels[threadIdx.x];
    int64_t before = 0;
    for (int i = 0; i < gathered; ++i) {
      before += keys[i] < key || (keys[i] == key && channels[i] < channel);
    }
    if (before == bracket.rank - 1) last = {key, channel, last.active};  // true in one thread
  }
}

// The bracket is one key that many channels have: those of lowest index are pruned.
template <int kBlock>
__device__ __forceinline__ void rank_ties(const ChannelScores& scores,
                                          const Bracket<uint64_t>& bracket, LastChannel& last) {
  const auto is_tie = [&](int64_t c) { return scores.key(c) == bracket.lo && scores.active(c); };
  const int64_t active = last.active;
  find_tie<kBlock>(scores.count, bracket.rank, is_tie,
                   [&](int64_t c) { last = {bracket.lo, c, active}; });
}

// Called by all threads of a block; all of them get the result.
template <int kBlock>
__device__ __forceinline__ LastChannel select_channels(const ChannelScores& scores,
                                                       const Amount& amount) {
  FASTPRUNE_SHARED(Bracket<uint64_t>, bracket);
  FASTPRUNE_SHARED(LastChannel, last);
  bracket_all<kBlock>(scores, amount, bracket, last);
  if (bracket.rank == 0) return last;
  while (bracket.inside > kBlock && bracket.lo != bracket.hi) {
    radix_pass<kBlock>(scores, bracket);
  }
  if (bracket.inside <= kBlock) {
    rank_channels<kBlock>(scores, bracket, last);
  } else {
    rank_ties<kBlock>(scores, bracket, last);
  }
  __syncthreads();
  return last;
}

// Sets the bits of pruned channels, in words of 32.
template <int kBlock>
__device__ __forceinline__ void write_pruned(const ChannelScores& scores, const LastChannel& last,
                                             unsigned* pruned) {
  for (int64_t first = 0; first < scores.count; first += kBlock) {
    const int64_t c = first + threadIdx.x;
    const unsigned word = __ballot_sync(0xffffffffu, c < scores.count && last.prunes(scores, c));
    if (threadIdx.x % 32 == 0 && c < scores.count) pruned[c / 32] = word;
  }
}

}  // namespace fastprune::cuda
