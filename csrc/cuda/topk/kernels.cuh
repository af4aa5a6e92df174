// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// kernels. Small inputs: small. Medium: bracket, medium, fixup. Large: sample, bracket, sweep,
// radix_pass for each digit, sweep again (returns at once unless the fallback was taken), ties,
// fixup. Raw pointers, no torch headers.
#pragma once

#include "cuda/topk/bracket.cuh"
#include "cuda/topk/fixup.cuh"
#include "cuda/topk/radix_pass.cuh"
#include "cuda/topk/state.cuh"
#include "cuda/topk/sweep.cuh"
#include "cuda/util/budget.cuh"

namespace fastprune::cuda {

// A block does everything: one for the whole list, or, with `each`, one for each tensor, by the
// tensor's own amount. `active`: for each block, how many entries were active, which the host may
// read.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_small_kernel(const TensorList list, const SelectionOptions options, bool each,
                      long long* active) {
  using Key = typename F::Key;
  TileRange tiles{0, static_cast<int>(list.tiles)};
  Amount amount = options.amount;
  if (each) {
    const TensorItem& item = list.count == 1 ? list.only : list.items[blockIdx.x];
    tiles = tiles_of_item(item);
    amount = item.amount;
  }
  const Bracket<Key> threshold = radix_select_in_block(
      Bracket<Key>{0, max_key<F>(), 0, 0, 0},
      [&](const DigitBins<Key>& bin_of, unsigned* bins) {
        count_everything<F, M>(list, options, bin_of, tiles, bins);
      },
      [&](int64_t total) {
        if (threadIdx.x == 0) active[blockIdx.x] = total;
        return bounded_budget(amount, total);
      });
  write_exact<F, M>(list, options, threshold, tiles);
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
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_bracket_kernel(const TensorList list, const SelectionOptions options,
                        const TopkWork<F> work, bool gather) {
  clear_state<F>(work);
  const int64_t padded = ceil_div(list.tiles, kTilesTogether) * kTilesTogether;
  if (list.tiles + threadIdx.x < padded) {
    work.edge_ties[list.tiles + threadIdx.x] = work.ties[list.tiles + threadIdx.x] = 0;
  }
  // sampled_edges() counts the keys that the thread has written, and only later reads others.
  if (gather) take_sample<F, M>(list, options, work, threadIdx.x, TopkPolicy::kThreads);
  const auto edges = sampled_edges<F>(list, work, options);
  if (threadIdx.x == 0) work.state->edges = edges;
}

// What the second sweep goes by, after the fallback has found the exact threshold.
template <class Key>
__device__ __forceinline__ Edges<Key> exact_edges(const Bracket<Key>& threshold, int64_t tiles) {
  const double share = static_cast<double>(threshold.rank) /
                       static_cast<double>(threshold.inside > 0 ? threshold.inside : 1);
  const Key key = threshold.lo;
  return {key, key, key, static_cast<Key>(share * static_cast<double>(tiles))};
}

// First by the sampled edges. With `again`, if the fallback was taken, by the exact threshold.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_sweep_kernel(const TensorList list, const SelectionOptions options, const TopkWork<F> work,
                      bool again) {
  auto* state = work.state;
  if (again && state->source == Source::kCandidates) return;
  const auto edges = again ? exact_edges(state->bracket, list.tiles) : state->edges;
  sweep_tiles<F, M>(list, options, work, edges, !again,
                    share_of_tiles(list.tiles, blockIdx.x, gridDim.x));
  if (!last_block(&state->arrived) || threadIdx.x != 0) return;
  if (again) {
    state->edges = edges;
  } else {
    const auto found = locate_threshold<F>(work, options);
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
  clear_bins(bins, kBins);
  __syncthreads();
  count_source<F, M>(list, options, work, state->source, DigitBins<typename F::Key>{bracket, digit},
                     blockIdx.x, gridDim.x, bins);
  __syncthreads();
  unsigned long long* all = work.bins + int64_t{pass} * kBins;
  add_bins(bins, kBins, all);
  if (!last_block(&state->arrived)) return;
  const auto next = choose_bin(
      bracket, digit, [&](int b) { return static_cast<long long>(load_fresh(all + b)); },
      [&](long long) { return bracket.rank; });
  if (threadIdx.x == 0) state->bracket = next;
}

// Finds out which ties are pruned.
template <class F>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_ties_kernel(const TopkWork<F> work, int tiles) {
  auto* state = work.state;
  const auto threshold = state->bracket;
  count_ties<F>(work, state->edges, threshold, blockIdx.x, gridDim.x);
  if (!last_block(&state->arrived)) return;
  const TieBoundary boundary = tie_boundary<F>(work, tiles, state->edges, threshold);
  if (threadIdx.x == 0) state->boundary = boundary;
}

template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_fixup_kernel(const TensorList list, const SelectionOptions options,
                      const TopkWork<F> work) {
  fixup<F, M>(list, options, work);
}

// The sweep; then its last block does what takes further launches for large inputs, up to the
// fixup.
template <class F, class M>
__global__ void __launch_bounds__(TopkPolicy::kThreads, TopkPolicy::kBlocksPerMultiprocessor)
    topk_medium_kernel(const TensorList list, const SelectionOptions options,
                       const TopkWork<F> work) {
  auto* state = work.state;
  sweep_tiles<F, M>(list, options, work, state->edges, true,
                    share_of_tiles(list.tiles, blockIdx.x, gridDim.x));
  if (!last_block(&state->arrived)) return;
  FASTPRUNE_SHARED(SweepResult<typename F::Key>, found);
  if (threadIdx.x == 0) found = locate_threshold<F>(work, options);
  __syncthreads();
  const SweepResult<typename F::Key> swept = found;
  const auto threshold = radix_select_in_block(
      swept.bracket,
      [&](const auto& bin_of, unsigned* bins) {
        count_source<F, M>(list, options, work, swept.source, bin_of, 0, 1, bins);
      },
      [&](int64_t) { return swept.bracket.rank; });
  if (threadIdx.x == 0) {
    state->source = swept.source;
    state->bracket = threshold;
  }
  if (swept.source == Source::kEverything) {
    const auto tiles = static_cast<int>(list.tiles);
    write_exact<F, M>(list, options, threshold, {0, tiles});
    if (threadIdx.x == 0) {  // nothing is left to rewrite
      state->edges = {threshold.lo, threshold.lo, threshold.lo,
                      static_cast<typename F::Key>(tiles)};
      state->boundary = {tiles, 0};
    }
    return;
  }
  count_ties<F>(work, state->edges, threshold, 0, 1);
  __syncthreads();  // all counts are written
  const TieBoundary boundary =
      tie_boundary<F>(work, static_cast<int>(list.tiles), state->edges, threshold);
  if (threadIdx.x == 0) state->boundary = boundary;
}

}  // namespace fastprune::cuda
