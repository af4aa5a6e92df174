// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// launches: a fixed list, and no host synchronisation if the amount is a fraction. Compiled for
// each score dtype by itself, in instances/, as these are the files that take longest.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "cuda/topk/kernels.cuh"
#include "cuda/topk/selection.h"
#include "cuda/topk/workspace.h"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/scaled.cuh"
#include "cuda/util/tile_map.h"
#include "testing/hooks.h"

namespace fastprune::cuda {

// A ScaledSource for each of the scores, in device memory.
inline at::Tensor scaled_sources(const TopkArgs& args) {
  std::vector<ScaledSource> sources;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    const void* scores = args.scores[s].const_data_ptr();
    sources.push_back({scores, source_index(args.scores[s].scalar_type()), is_aligned(scores),
                       device_factor(args.factors[s])});
  }
  return stored(sources, args.scores[0].device());
}

template <class F, class M>
TileMap tile_map(const TopkArgs& args) {
  TileMap map;
  const ScaledSource* scaled = nullptr;
  if constexpr (kIsScaled<F>) {
    const at::Tensor sources = scaled_sources(args);
    scaled = reinterpret_cast<const ScaledSource*>(sources.const_data_ptr<uint8_t>());
    map.keep(sources);
  }
  for (size_t s = 0; s < args.scores.size(); ++s) {
    TensorItem item = make_item<typename F::Bits, M>(
        scaled != nullptr ? nullptr : args.scores[s].const_data_ptr(),
        args.masks[s].defined() ? args.masks[s].const_data_ptr() : nullptr,
        args.outputs[s].work.mutable_data_ptr(), args.scores[s].numel(),
        args.products.empty() ? nullptr : args.ts[s].const_data_ptr(),
        args.products.empty() ? nullptr : args.products[s].mutable_data_ptr());
    if (scaled != nullptr) item.scores = scaled + s;
    item.amount = args.amounts[args.amounts.size() > 1 ? s : 0];
    map.add(item);
  }
  return map;
}

// For tests: reads back what a selection by a sample did.
template <class F>
void watch(const at::Tensor& memory, int tiles) {
  using Key = typename F::Key;
  using State = TopkState<Key>;
  if (!test_hooks().watch) return;
  State state{};
  std::memcpy(&state, memory.slice(0, 0, sizeof(State)).cpu().const_data_ptr<uint8_t>(),
              sizeof(State));
  test_hooks().fallbacks += state.source == Source::kEverything ? 1 : 0;
  const TileRange range =
      Rewrite<Key>(state.edges, state.bracket.lo, state.boundary, nullptr, tiles).range();
  test_hooks().rewritten += range.last - range.first;
}

// Reads back how many entries were active, to reject a count that does not fit.
inline void check_counts_fit(const std::vector<Amount>& amounts, const at::Tensor& active) {
  const at::Tensor host = active.cpu();
  for (size_t i = 0; i < amounts.size(); ++i) {
    check_count_fits(amounts[i], host.const_data_ptr<int64_t>()[i]);
  }
}

// One block, or one for each tensor; returns the number of active entries of each.
template <class F, class M>
at::Tensor launch_small(const TensorList& list, const SelectionOptions& options, bool each,
                        at::Device device) {
  static_assert(sizeof(long long) == sizeof(int64_t));
  const int blocks = each ? list.count : 1;
  at::Tensor active = fresh({blocks}, at::kLong, device);
  FASTPRUNE_LAUNCH((topk_small_kernel<F, M>), blocks, TopkPolicy::kThreads, list, options, each,
                   reinterpret_cast<long long*>(active.mutable_data_ptr<int64_t>()));
  return active;
}

template <class F, class M>
void launch_medium(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                   unsigned grid) {
  FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, TopkPolicy::kThreads, list, options, work, true);
  FASTPRUNE_LAUNCH((topk_medium_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
  FASTPRUNE_LAUNCH((topk_fixup_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
}

template <class F, class M>
void launch_sample(const TensorList& list, const SelectionOptions& options,
                   const TopkWork<F>& work) {
  const unsigned grid = grid_for(ceil_div(work.sample_size, TopkPolicy::kThreads),
                                 TopkPolicy::kSampleBlocksPerMultiprocessor);
  FASTPRUNE_LAUNCH((topk_sample_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
}

template <class F, class M>
void launch_sweep(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                  unsigned grid, bool again) {
  FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work,
                   again);
}

// By the threshold in the state.
template <class F, class M>
void launch_fixup(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                  unsigned grid) {
  FASTPRUNE_LAUNCH((topk_ties_kernel<F>), grid, TopkPolicy::kThreads, work,
                   static_cast<int>(list.tiles));
  FASTPRUNE_LAUNCH((topk_fixup_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
}

template <class F, class M>
void launch_large(const TensorList& list, const SelectionOptions& options, const TopkWork<F>& work,
                  unsigned grid) {
  constexpr int kThreads = TopkPolicy::kThreads;
  // Each block of a radix pass adds its bins to those in memory, so more blocks cost more atomics.
  const unsigned radix_grid = grid_for(list.tiles, 1);
  launch_sample<F, M>(list, options, work);
  FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, kThreads, list, options, work, false);
  launch_sweep<F, M>(list, options, work, grid, /*again=*/false);
  for (int pass = 0; pass < kPasses<F>; ++pass) {
    FASTPRUNE_LAUNCH((topk_radix_pass_kernel<F, M>), radix_grid, kThreads, list, options, work,
                     pass);
  }
  launch_sweep<F, M>(list, options, work, grid, /*again=*/true);
  launch_fixup<F, M>(list, options, work, grid);
}

template <class F, class M>
SelectionOptions options_of(const TopkArgs& args, bool active_only, bool largest) {
  return {args.amounts[0], one_bits(args.mask_dtype), largest ? uint64_t{max_key<F>()} : 0,
          active_only && args.any_mask, test_hooks().forced_miss};
}

// Only the device knows whether a count fits. A fraction always does.
inline bool has_to_check(const TopkArgs& args, const SelectionOptions& options) {
  const auto is_count = [](const Amount& amount) { return amount.is_count; };
  return options.active_only && std::any_of(args.amounts.begin(), args.amounts.end(), is_count);
}

// From all tensors together. There is an entry.
template <class F, class M>
void launch_together(const TopkArgs& args, const SelectionOptions& options) {
  const at::Device device = args.scores[0].device();
  TileMap map = tile_map<F, M>(args);
  const TensorList list = map.list(device);
  TORCH_INTERNAL_ASSERT(list.tiles <= std::numeric_limits<int>::max());
  // Many tensors make many partial tiles, which would keep one block busy for too long.
  const auto within = [&](int64_t entries) {
    return list.entries <= entries && list.tiles <= 2 * (entries / kTile) + 2;
  };
  at::Tensor active;
  if (within(TopkPolicy::kSmall)) {
    active = launch_small<F, M>(list, options, /*each=*/false, device);
  } else {
    const unsigned grid = grid_for<TopkPolicy>(list.tiles);
    const Workspace<F> workspace(list, grid, device);
    if (within(TopkPolicy::kMedium)) {
      launch_medium<F, M>(list, options, workspace.pointers, grid);
    } else {
      launch_large<F, M>(list, options, workspace.pointers, grid);
    }
    watch<F>(workspace.memory, static_cast<int>(list.tiles));
    constexpr auto kActive =
        offsetof(TopkState<typename F::Key>, counts) + offsetof(SweepCounts, active);
    active = workspace.memory.slice(0, kActive, kActive + sizeof(int64_t)).view(at::kLong);
  }
  if (has_to_check(args, options)) check_counts_fit(args.amounts, active);
}

// From each tensor by itself: one launch for those that a block takes, and launches of its own for
// each of the others.
template <class F, class M>
void launch_each(const TopkArgs& args, bool active_only, bool largest) {
  TopkArgs small;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    const int64_t size = args.scores[s].numel();
    if (size == 0 || !args.masks[s].defined()) check_count_fits(args.amounts[s], size);
    if (size == 0) continue;
    if (size <= TopkPolicy::kEach) {
      small.append(args, s);
    } else {
      TopkArgs alone;
      alone.append(args, s);
      launch_together<F, M>(alone, options_of<F, M>(alone, active_only, largest));
    }
  }
  if (small.scores.empty()) return;
  const at::Device device = small.scores[0].device();
  TileMap map = tile_map<F, M>(small);
  const SelectionOptions options = options_of<F, M>(small, active_only, largest);
  const at::Tensor active = launch_small<F, M>(map.list(device), options, /*each=*/true, device);
  if (has_to_check(small, options)) check_counts_fit(small.amounts, active);
}

template <class F>
void launch_selection(const TopkArgs& args, bool active_only, bool largest) {
  dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
    using M = decltype(bits);
    if (args.amounts.size() > 1) return launch_each<F, M>(args, active_only, largest);
    launch_together<F, M>(args, options_of<F, M>(args, active_only, largest));
  });
}

}  // namespace fastprune::cuda
