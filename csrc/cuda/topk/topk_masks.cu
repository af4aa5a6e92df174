// topk_masks and topk_prune on CUDA: a fixed list of launches, no host synchronisation for a
// fraction.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/topk/kernels.cuh"
#include "cuda/util/launch.cuh"
#include "cuda/util/tile_map.h"
#include "testing/hooks.h"

namespace fastprune::cuda {
namespace {

template <class F, class M>
TileMap tile_map(const TopkArgs& args) {
  TileMap map;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    map.add(make_segment<typename F::Bits, M>(
        args.scores[s].const_data_ptr(),
        args.masks[s].defined() ? args.masks[s].const_data_ptr() : nullptr,
        args.outputs[s].work.mutable_data_ptr(), args.scores[s].numel(),
        args.products.empty() ? nullptr : args.ts[s].const_data_ptr(),
        args.products.empty() ? nullptr : args.products[s].mutable_data_ptr()));
  }
  return map;
}

// The memory that kernels hand on to each other, one allocation.
template <class F>
struct Workspace {
  TopkWork<F> pointers{};
  at::Tensor memory;

  Workspace(const SegmentList& list, const at::TensorOptions& bytes) {
    const int64_t wanted =
        std::clamp(list.entries / TopkPolicy::kSampleShare, int64_t{TopkPolicy::kSampleLeast},
                   int64_t{TopkPolicy::kSampleMost});
    TopkWork<F>& w = pointers;
    w.stretch = std::max<int64_t>(1, list.entries / wanted);
    w.sample_size = (list.entries + w.stretch - 1) / w.stretch;
    w.room = test_hooks().overflow ? 0 : candidates(list.entries, w.sample_size);
    const int64_t tiles = (list.tiles + kTilesTogether - 1) / kTilesTogether * kTilesTogether;
    int64_t size = 0;
    const auto place = [&](int64_t count, size_t each) {
      const int64_t at = size;
      size += (count * static_cast<int64_t>(each) + kPackBytes - 1) / kPackBytes * kPackBytes;
      return at;
    };
    const int64_t state = place(1, sizeof(*w.state));
    const int64_t bins =
        place(int64_t{kBins} * digit_passes(F::kKeyBits, TopkPolicy::kDigitBits), sizeof(*w.bins));
    const int64_t sample = place(w.sample_size, sizeof(*w.sample));
    const int64_t keys = place(w.room, sizeof(*w.keys));
    const int64_t offsets = place(w.room, sizeof(*w.offsets));
    const int64_t records = place(tiles, sizeof(*w.records));
    const int64_t ties = place(tiles, sizeof(*w.ties));
    memory = at::empty({size}, bytes);
    uint8_t* base = memory.mutable_data_ptr<uint8_t>();
    w.state = reinterpret_cast<TopkState<typename F::Key>*>(base + state);
    w.bins = reinterpret_cast<unsigned long long*>(base + bins);
    w.sample = reinterpret_cast<typename F::Bits*>(base + sample);
    w.keys = reinterpret_cast<typename F::Bits*>(base + keys);
    w.offsets = reinterpret_cast<uint16_t*>(base + offsets);
    w.records = reinterpret_cast<TileRecord*>(base + records);
    w.ties = reinterpret_cast<unsigned*>(base + ties);
  }

  // The bracket is widest where half is pruned.
  static int64_t candidates(int64_t entries, int64_t sampled) {
    const auto size = static_cast<double>(sampled);
    const double share = std::min(1.0, (TopkPolicy::kSampleSigmas * std::sqrt(size) + 6.0) / size);
    const double room = TopkPolicy::kCandidateRoom * share * static_cast<double>(entries);
    return std::min({entries, int64_t{1} << 31, static_cast<int64_t>(room) + kTile});
  }
};

template <class F>
void look_back(const at::Tensor& memory, const SelectionOptions& options, bool check,
               bool sampled) {
  if (!check && !test_hooks().watch) return;
  const at::Tensor host = memory.narrow(0, 0, sizeof(TopkState<typename F::Key>)).cpu();
  const auto* state =
      reinterpret_cast<const TopkState<typename F::Key>*>(host.const_data_ptr<uint8_t>());
  if (sampled) test_hooks().fallbacks += state->source == Source::kEverything;
  if (check) check_count_fits(options.amount, static_cast<int64_t>(state->active));
}

template <class F, class M>
void select(const TopkArgs& args, bool active_only, bool largest) {
  using Key = typename F::Key;
  TileMap map = tile_map<F, M>(args);
  if (map.tiles() == 0) return;
  const auto bytes = args.scores[0].options().dtype(at::kByte);
  const SelectionOptions options{args.amount, one_bits(args.mask_dtype),
                                 largest ? uint64_t{max_key<F>()} : 0, active_only,
                                 test_hooks().forced_miss};
  const SegmentList list = map.list(bytes);
  // Whether a count fits is known on the device alone; a fraction always does.
  const bool check = args.amount.is_count && args.any_mask && active_only;
  // Many tensors make many tiles, which one block alone would take too long to visit.
  const auto within = [&](int64_t entries) {
    return list.entries <= entries && list.tiles <= 2 * (entries / kTile) + 2;
  };

  if (within(TopkPolicy::kSmall)) {
    const at::Tensor state = at::empty({static_cast<int64_t>(sizeof(TopkState<Key>))}, bytes);
    FASTPRUNE_LAUNCH((topk_small_kernel<F, M>), 1, TopkPolicy::kThreads, list, options,
                     reinterpret_cast<TopkState<Key>*>(state.mutable_data_ptr<uint8_t>()));
    look_back<F>(state, options, check, /*sampled=*/false);
    return;
  }
  const Workspace<F> workspace(list, bytes);
  const TopkWork<F>& work = workspace.pointers;
  const unsigned grid = grid_for<TopkPolicy>(list.tiles);
  if (within(TopkPolicy::kMedium)) {
    FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, TopkPolicy::kThreads, list, options, work,
                     true);
    FASTPRUNE_LAUNCH((topk_medium_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
  } else {
    const int64_t sampling = (work.sample_size + TopkPolicy::kThreads - 1) / TopkPolicy::kThreads;
    FASTPRUNE_LAUNCH((topk_sample_kernel<F, M>),
                     grid_for(sampling, TopkPolicy::kSampleBlocksPerMultiprocessor),
                     TopkPolicy::kThreads, list, options, work);
    FASTPRUNE_LAUNCH((topk_bracket_kernel<F, M>), 1, TopkPolicy::kThreads, list, options, work,
                     false);
    FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work,
                     false);
    for (int pass = 0; pass < digit_passes(F::kKeyBits, TopkPolicy::kDigitBits); ++pass) {
      // Each block adds its bins to those in memory, so there are no more blocks than help.
      FASTPRUNE_LAUNCH((topk_narrow_kernel<F, M>), grid_for(list.tiles, 1), TopkPolicy::kThreads,
                       list, options, work, pass);
    }
    FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work,
                     true);
    FASTPRUNE_LAUNCH((topk_quota_kernel<F>), grid, TopkPolicy::kThreads, work, list.tiles);
  }
  FASTPRUNE_LAUNCH((topk_fix_kernel<F, M>), grid, TopkPolicy::kThreads, list, options, work);
  look_back<F>(workspace.memory, options, check, /*sampled=*/true);
}

void run(const TopkArgs& args, bool active_only, bool largest) {
  if (!args.any_mask || !active_only || args.total == 0) check_count_fits(args.amount, args.total);
  dispatch_scores(args.scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto bits) {
      select<decltype(format), decltype(bits)>(args, active_only, largest);
    });
  });
}

std::vector<at::Tensor> topk_masks(at::TensorList scores, const MaskList& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  check_topk_masks(scores, old_masks, amount, dtype);
  if (scores.empty()) return {};
  const DeviceGuard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, dtype);
  run(args, active_only, largest);
  return args.finish();
}

TensorLists topk_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                       const at::Scalar& amount, bool active_only) {
  check_topk_prune(scores, ts);
  if (scores.empty()) return {};
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  check_topk_masks(scores, old_masks, amount, std::nullopt);
  const DeviceGuard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, std::nullopt);
  prepare_topk_prune(args, ts, kFusion);
  run(args, active_only, /*largest=*/false);
  std::vector<at::Tensor> new_masks = args.finish();
  if (args.products.empty()) args.products = masked_muls(ts, new_masks);
  return {std::move(new_masks), std::move(args.products)};
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("topk_masks", &topk_masks);
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::cuda
