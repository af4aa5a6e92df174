// Kernels of topk_masks. Small inputs: topk_small. Medium: bracket, medium, fix. Large: sample,
// bracket, sweep, narrow once for each digit, sweep again (which returns at once unless the sample
// misled), quota, fix. Raw pointers, no torch headers.
#pragma once

#include "cuda/topk/bracket.cuh"
#include "cuda/topk/fixup.cuh"
#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/topk/sweep.cuh"

namespace fastprune::cuda {

// Of the state, `active` alone is set: for the host.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, 1)
    topk_small_kernel(const SegmentList list, const SelectionOptions options,
                      TopkState<typename F::Key>* state) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  Bracket<Key> bracket{0, max_key<F>(), 0, 0, 0};
  for (int pass = 0; bracket.lo != bracket.hi; ++pass) {
    const Digit digit = digit_of_range(bracket.lo, bracket.hi, TopkPolicy::kDigitBits);
    clear_bins(bins);
    __syncthreads();
    count_everything<F, M>(list, options, bracket, digit, 0, 1, bins);
    __syncthreads();
    bracket = narrow_in_block(
        bracket, digit, [&](int b) { return static_cast<long long>(bins[b]); },
        [&](long long total) {
          if (pass > 0) return static_cast<long long>(bracket.rank);
          if (threadIdx.x == 0) state->active = static_cast<unsigned long long>(total);
          // The host refuses a count beyond `active`; until it has looked, stay within bounds.
          const long long wanted = budget(options.amount, total);
          return wanted < total ? wanted : total;
        });
  }
  int64_t left = bracket.rank;
  for (int64_t tile = 0; tile < list.tiles; ++tile) {
    const Quota quota{static_cast<int>(left < kTile ? left : kTile), left > 0 && !all_due(bracket)};
    left -=
        settle_tile<F, M>(tile_span<typename F::Bits, M>(list, tile), bracket.lo, quota, options);
  }
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_sample_kernel(const SegmentList list, const SelectionOptions options,
                       const TopkWork<F> work) {
  take_sample<F, M>(list, options, work, int64_t{blockIdx.x} * TopkPolicy::kThreads + threadIdx.x,
                    int64_t{gridDim.x} * TopkPolicy::kThreads);
}

// One block. With `gather` it takes the sample itself.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, 1)
    topk_bracket_kernel(const SegmentList list, const SelectionOptions options,
                        const TopkWork<F> work, bool gather) {
  clear_state<F>(work);
  // A thread ranks what it has taken itself, so there is nothing to wait for.
  if (gather) take_sample<F, M>(list, options, work, threadIdx.x, TopkPolicy::kThreads);
  const auto edges = sampled_edges<F>(work, options, list.entries);
  if (threadIdx.x == 0) work.state->edges = edges;
}

// Before `again` with the sampled edges; then, if the sample misled, with the threshold.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_sweep_kernel(const SegmentList list, const SelectionOptions options,
                      const TopkWork<F> work, bool again) {
  auto* state = work.state;
  if (again) {
    if (state->source == Source::kCandidates) return;
    const auto key = state->bracket.lo;
    sweep_tiles<F, M>(list, options, work, {key, key, key}, false, blockIdx.x, gridDim.x);
    if (last_block(&state->arrived) && threadIdx.x == 0) state->edges = {key, key, key};
    return;
  }
  sweep_tiles<F, M>(list, options, work, state->edges, true, blockIdx.x, gridDim.x);
  if (last_block(&state->arrived) && threadIdx.x == 0) {
    const auto found = verdict(work, options);
    state->source = found.source;
    state->bracket = found.bracket;
  }
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_narrow_kernel(const SegmentList list, const SelectionOptions options,
                       const TopkWork<F> work, int pass) {
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  auto* state = work.state;
  const auto bracket = state->bracket;
  if (bracket.lo == bracket.hi) return;
  const Digit digit = digit_of_range(bracket.lo, bracket.hi, TopkPolicy::kDigitBits);
  clear_bins(bins);
  __syncthreads();
  if (state->source == Source::kCandidates) {
    const auto count = static_cast<int64_t>(state->between);
    count_candidates<F>(work, count, bracket, digit, blockIdx.x, gridDim.x, bins);
  } else {
    count_everything<F, M>(list, options, bracket, digit, blockIdx.x, gridDim.x, bins);
  }
  __syncthreads();
  unsigned long long* all = work.bins + int64_t{pass} * kBins;
  for (int b = threadIdx.x; b < kBins; b += TopkPolicy::kThreads) {
    if (bins[b] > 0) atomicAdd(&all[b], static_cast<unsigned long long>(bins[b]));
  }
  if (!last_block(&state->arrived)) return;
  const auto narrowed = narrow_in_block(
      bracket, digit, [&](int b) { return static_cast<long long>(load_fresh(all + b)); },
      [&](long long) { return bracket.rank; });
  if (threadIdx.x == 0) state->bracket = narrowed;
}

template <class F>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_quota_kernel(const TopkWork<F> work, int64_t tiles) {
  auto* state = work.state;
  const auto threshold = state->bracket;
  if (all_alike(threshold)) return;
  const auto group = int64_t{gridDim.x} * (threadIdx.x / kTieLanes) + blockIdx.x;
  count_ties<F>(work, tiles, state->edges, threshold, group, int64_t{gridDim.x} * kTieGroups);
  if (last_block(&state->arrived)) share_out(work.ties, tiles, threshold);
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_fix_kernel(const SegmentList list, const SelectionOptions options,
                    const TopkWork<F> work) {
  fix_tiles<F, M>(list, options, work, work.state->edges, work.state->bracket);
}

// The sweep, and by its last block all that a large input has further launches for but the fix.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_medium_kernel(const SegmentList list, const SelectionOptions options,
                       const TopkWork<F> work) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(Verdict<Key>, shared_verdict);
  auto* state = work.state;
  Edges<Key> edges = state->edges;
  sweep_tiles<F, M>(list, options, work, edges, true, blockIdx.x, gridDim.x);
  if (!last_block(&state->arrived)) return;
  if (threadIdx.x == 0) shared_verdict = verdict(work, options);
  __syncthreads();
  const Source source = shared_verdict.source;
  const Bracket<Key> threshold =
      narrow_alone<F, M>(list, options, work, source, shared_verdict.bracket);
  if (source == Source::kEverything) {
    edges = {threshold.lo, threshold.lo, threshold.lo};
    sweep_tiles<F, M>(list, options, work, edges, false, 0, 1);
  }
  count_ties<F>(work, list.tiles, edges, threshold, threadIdx.x / kTieLanes, kTieGroups);
  __syncthreads();  // all counts are there
  share_out(work.ties, list.tiles, threshold);
  if (threadIdx.x == 0) {
    state->source = source;
    state->edges = edges;
    state->bracket = threshold;
  }
}

}  // namespace fastprune::cuda
