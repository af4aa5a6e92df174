// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// launches: a fixed list, and no host synchronisation if the amount is a fraction. Compiled for
// each score dtype by itself, in instances/, as these are the files that take longest.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstring>
#include <limits>

#include "args/topk.h"
#include "common/dtypes.h"
#include "cuda/topk/kernels.cuh"
#include "cuda/topk/selection.h"
#include "cuda/topk/workspace.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"
#include "testing/hooks.h"

namespace fastprune::cuda {

template <class F, class M>
TileMap tile_map(const TopkArgs& args) {
  TileMap map;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    map.add(make_item<typename F::Bits, M>(
        args.scores[s].const_data_ptr(),
        args.masks[s].defined() ? args.masks[s].const_data_ptr() : nullptr,
        args.outputs[s].work.mutable_data_ptr(), args.scores[s].numel(),
        args.products.empty() ? nullptr : args.ts[s].const_data_ptr(),
        args.products.empty() ? nullptr : args.products[s].mutable_data_ptr()));
  }
  return map;
}

// Reads the state back where the host has to know it: to reject a count that does not fit, and for
// tests.
template <class F>
void read_state(const at::Tensor& memory, const SelectionOptions& options, bool check, bool sampled,
                int tiles) {
  using Key = typename F::Key;
  using State = TopkState<Key>;
  // Each field by itself: a small selection sets only `active`.
  const auto read = [&](auto& value, size_t at) {
    const auto begin = static_cast<int64_t>(at);
    const at::Tensor host = memory.slice(0, begin, begin + sizeof(value)).cpu();
    std::memcpy(&value, host.const_data_ptr<uint8_t>(), sizeof(value));
  };
  if (sampled && test_hooks().watch) {
    Source source{};
    read(source, offsetof(State, source));
    test_hooks().fallbacks += source == Source::kEverything;
    Edges<Key> edges{};
    Bracket<Key> threshold{};
    TieBoundary boundary{};
    read(edges, offsetof(State, edges));
    read(threshold, offsetof(State, bracket));
    read(boundary, offsetof(State, boundary));
    const TileRange range = Rewrite<Key>(edges, threshold.lo, boundary, nullptr, tiles).range();
    test_hooks().rewritten += range.last - range.first;
  }
  if (check) {
    unsigned long long active = 0;
    read(active, offsetof(State, counts) + offsetof(SweepCounts, active));
    check_count_fits(options.amount, static_cast<int64_t>(active));
  }
}

// Returns the memory that holds the state.
template <class F, class M>
at::Tensor launch_small(const TensorList& list, const SelectionOptions& options,
                        at::Device device) {
  using State = TopkState<typename F::Key>;
  at::Tensor state = fresh({static_cast<int64_t>(sizeof(State))}, at::kByte, device);
  FASTPRUNE_LAUNCH((topk_small_kernel<F, M>), 1, TopkPolicy::kThreads, list, options,
                   reinterpret_cast<State*>(state.mutable_data_ptr<uint8_t>()));
  return state;
}

template <class F, class M>
void launch_medium(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                   unsigned grid) {
  FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, TopkPolicy::kThreads, list, options, work, true);
  FASTPRUNE_LAUNCH((topk_medium_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
  FASTPRUNE_LAUNCH((topk_fixup_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
}

template <class F, class M>
void launch_large(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                  unsigned grid) {
  constexpr int kThreads = TopkPolicy::kThreads;
  const unsigned sample_grid =
      grid_for(ceil_div(work.sample_size, kThreads), TopkPolicy::kSampleBlocksPerMultiprocessor);
  // Each block of a radix pass adds its bins to those in memory, so more blocks cost more atomics.
  const unsigned radix_grid = grid_for(list.tiles, 1);
  FASTPRUNE_LAUNCH((topk_sample_kernel<F, M>), sample_grid, kThreads, list, options, work);
  FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, kThreads, list, options, work, false);
  FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid, kThreads, list, options, work, false);
  for (int pass = 0; pass < kPasses<F>; ++pass) {
    FASTPRUNE_LAUNCH((topk_radix_pass_kernel<F, M>), radix_grid, kThreads, list, options, work,
                     pass);
  }
  FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid, kThreads, list, options, work, true);
  FASTPRUNE_LAUNCH((topk_ties_kernel<F>), grid, kThreads, work, static_cast<int>(list.tiles));
  FASTPRUNE_LAUNCH((topk_fixup_kernel<F, M>), grid, kThreads, list, options, work);
}

template <class F, class M>
void launch_with_mask(const TopkArgs& args, bool active_only, bool largest) {
  TileMap map = tile_map<F, M>(args);
  if (map.tiles() == 0) return;
  const at::Device device = args.scores[0].device();
  const TensorList list = map.list(device);
  TORCH_INTERNAL_ASSERT(list.tiles <= std::numeric_limits<int>::max());
  const auto tiles = static_cast<int>(list.tiles);
  const SelectionOptions options{args.amount, one_bits(args.mask_dtype),
                                 largest ? uint64_t{max_key<F>()} : 0, active_only && args.any_mask,
                                 test_hooks().forced_miss};
  // Only the device knows whether a count fits. A fraction always does.
  const bool check = args.amount.is_count && args.any_mask && active_only;
  // Many tensors make many partial tiles, which would keep one block busy for too long.
  const auto within = [&](int64_t entries) {
    return list.entries <= entries && list.tiles <= 2 * (entries / kTile) + 2;
  };
  if (within(TopkPolicy::kSmall)) {
    const at::Tensor state = launch_small<F, M>(list, options, device);
    return read_state<F>(state, options, check, /*sampled=*/false, tiles);
  }
  const unsigned grid = grid_for<TopkPolicy>(list.tiles);
  const Workspace<F> workspace(list, grid, device);
  if (within(TopkPolicy::kMedium)) {
    launch_medium<F, M>(list, options, workspace.pointers, grid);
  } else {
    launch_large<F, M>(list, options, workspace.pointers, grid);
  }
  read_state<F>(workspace.memory, options, check, /*sampled=*/true, tiles);
}

template <class F>
void launch_selection(const TopkArgs& args, bool active_only, bool largest) {
  dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
    launch_with_mask<F, decltype(bits)>(args, active_only, largest);
  });
}

}  // namespace fastprune::cuda
