// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// kernels. Small inputs: small. Medium: bracket, medium, fixup. Large: sample, bracket, sweep,
// radix_pass for each digit, sweep again (returns at once unless the fallback was taken), quota,
// fixup. Raw pointers, no torch headers.
#pragma once

#include "cuda/topk/bracket.cuh"
#include "cuda/topk/fixup.cuh"
#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/topk/sweep.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// One block does everything. Of the state it sets only `active`, which the host may read.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, 1)
    topk_small_kernel(const TensorList list, const SelectionOptions options,
                      TopkState<typename F::Key>* state) {
  using Key = typename F::Key;
  const Bracket<Key> threshold = radix_select_in_block(
      Bracket<Key>{0, max_key<F>(), 0, 0, 0},
      [&](const Bracket<Key>& bracket, Digit digit, unsigned* bins) {
        count_everything<F, M>(list, options, bracket, digit, 0, 1, bins);
      },
      [&](int64_t active) {
        if (threadIdx.x == 0) state->active = static_cast<unsigned long long>(active);
        return bounded_budget(options.amount, active);
      });
  int64_t left = threshold.rank;
  for (int64_t tile = 0; tile < list.tiles; ++tile) {
    const Quota quota{static_cast<int>(left < kTile ? left : kTile),
                      left > 0 && !all_due(threshold)};
    left -= write_exact_tile<F, M>(tile_span<typename F::Bits, M>(list, tile), threshold.lo, quota,
                                   options);
  }
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_sample_kernel(const TensorList list, const SelectionOptions options,
                       const TopkWork<F> work) {
  take_sample<F, M>(list, options, work, int64_t{blockIdx.x} * TopkPolicy::kThreads + threadIdx.x,
                    int64_t{gridDim.x} * TopkPolicy::kThreads);
}

// One block. With `gather` it also takes the sample.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, 1)
    topk_bracket_kernel(const TensorList list, const SelectionOptions options,
                        const TopkWork<F> work, bool gather) {
  clear_state<F>(work);
  const int64_t padded = ceil_div(list.tiles, kTilesTogether) * kTilesTogether;
  if (list.tiles + threadIdx.x < padded) work.ties[list.tiles + threadIdx.x] = 0;
  // Each thread reads only the keys it has written itself, so no barrier is needed.
  if (gather) take_sample<F, M>(list, options, work, threadIdx.x, TopkPolicy::kThreads);
  const auto edges = sampled_edges<F>(work, options, list.entries);
  if (threadIdx.x == 0) work.state->edges = edges;
}

// First by the sampled edges. With `again`, if the fallback was taken, by the exact threshold.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_sweep_kernel(const TensorList list, const SelectionOptions options, const TopkWork<F> work,
                      bool again) {
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
    const auto found = locate_threshold(work, options);
    state->source = found.source;
    state->bracket = found.bracket;
  }
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_radix_pass_kernel(const TensorList list, const SelectionOptions options,
                           const TopkWork<F> work, int pass) {
  FASTPRUNE_SHARED(unsigned[kBins], bins);
  auto* state = work.state;
  const auto bracket = state->bracket;
  if (bracket.lo == bracket.hi) return;
  const Digit digit = digit_of_range(bracket.lo, bracket.hi, TopkPolicy::kDigitBits);
  clear_bins(bins);
  __syncthreads();
  count_source<F, M>(list, options, work, state->source, bracket, digit, blockIdx.x, gridDim.x,
                     bins);
  __syncthreads();
  unsigned long long* all = work.bins + int64_t{pass} * kBins;
  for (int b = threadIdx.x; b < kBins; b += TopkPolicy::kThreads) {
    if (bins[b] > 0) atomicAdd(&all[b], static_cast<unsigned long long>(bins[b]));
  }
  if (!last_block(&state->arrived)) return;
  const auto next = choose_bin(
      bracket, digit, [&](int b) { return static_cast<long long>(load_fresh(all + b)); },
      [&](long long) { return bracket.rank; });
  if (threadIdx.x == 0) state->bracket = next;
}

template <class F>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_quota_kernel(const TopkWork<F> work, int64_t tiles) {
  auto* state = work.state;
  const auto threshold = state->bracket;
  if (all_or_none(threshold)) return;
  const auto group = int64_t{gridDim.x} * (threadIdx.x / kTieLanes) + blockIdx.x;
  count_ties<F>(work, tiles, state->edges, threshold, group, int64_t{gridDim.x} * kTieGroups);
  if (last_block(&state->arrived)) assign_quotas(work.ties, tiles, threshold);
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_fixup_kernel(const TensorList list, const SelectionOptions options,
                      const TopkWork<F> work) {
  fixup_tiles<F, M>(list, options, work, work.state->edges, work.state->bracket);
}

// The sweep; then its last block does what takes further launches for large inputs, up to the
// fixup.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_medium_kernel(const TensorList list, const SelectionOptions options,
                       const TopkWork<F> work) {
  using Key = typename F::Key;
  FASTPRUNE_SHARED(SweepResult<Key>, shared_result);
  auto* state = work.state;
  Edges<Key> edges = state->edges;
  sweep_tiles<F, M>(list, options, work, edges, true, blockIdx.x, gridDim.x);
  if (!last_block(&state->arrived)) return;
  if (threadIdx.x == 0) shared_result = locate_threshold(work, options);
  __syncthreads();
  const SweepResult<Key> swept = shared_result;
  const Bracket<Key> threshold = radix_select_in_block(
      swept.bracket,
      [&](const Bracket<Key>& bracket, Digit digit, unsigned* bins) {
        count_source<F, M>(list, options, work, swept.source, bracket, digit, 0, 1, bins);
      },
      [&](int64_t) { return swept.bracket.rank; });
  if (swept.source == Source::kEverything) {
    edges = {threshold.lo, threshold.lo, threshold.lo};
    sweep_tiles<F, M>(list, options, work, edges, false, 0, 1);
  }
  count_ties<F>(work, list.tiles, edges, threshold, threadIdx.x / kTieLanes, kTieGroups);
  __syncthreads();  // all counts are written
  assign_quotas(work.ties, list.tiles, threshold);
  if (threadIdx.x == 0) {
    state->source = swept.source;
    state->edges = edges;
    state->bracket = threshold;
  }
}

}  // namespace fastprune::cuda
