// topk_masks on CUDA: a fixed list of launches, no host synchronisation for a fraction.
#include <ATen/ATen.h>

#include <tuple>
#include <vector>

#include "../checks.h"
#include "../dispatch.h"
#include "launch.cuh"
#include "masked_mul.h"
#include "tile_map.h"
#include "topk_kernels.cuh"

namespace fastprune::cuda {
namespace {

template <class F, class M>
TileMap tile_map(const TopkArgs& args) {
  TileMap map;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    map.add(make_segment<typename F::Bits, M>(
        args.scores[s].const_data_ptr(),
        args.masks[s].defined() ? args.masks[s].const_data_ptr() : nullptr,
        args.work[s].mutable_data_ptr(), args.scores[s].numel()));
  }
  return map;
}

template <class F, class M>
void select(const TopkArgs& args, bool active_only, bool largest) {
  using Key = typename F::Key;
  TileMap map = tile_map<F, M>(args);
  if (map.tiles() == 0) return;
  const auto bytes = args.scores[0].options().dtype(at::kByte);
  const SelectionOptions options{args.amount, one_bits(args.mask_dtype),
                                 largest ? uint64_t{max_key<F>()} : 0, active_only};
  const SegmentList list = map.list(bytes);
  at::Tensor counts = at::zeros({kBins}, bytes.dtype(at::kLong));
  at::Tensor state = at::empty({static_cast<int64_t>(sizeof(SelectionState<Key>))}, bytes);
  at::Tensor ties = at::empty({map.tiles()}, bytes.dtype(at::kInt));
  auto* counts_ptr = reinterpret_cast<unsigned long long*>(counts.mutable_data_ptr<int64_t>());
  auto* state_ptr = reinterpret_cast<SelectionState<Key>*>(state.mutable_data_ptr<uint8_t>());
  int* ties_ptr = ties.mutable_data_ptr<int>();

  for (int pass = 0; pass < digit_passes(F::kKeyBits, kDigitBits); ++pass) {
    FASTPRUNE_LAUNCH((topk_histogram_kernel<F, M>), grid_for(list.tiles), kThreads, list, options,
                     pass, state_ptr, counts_ptr);
    FASTPRUNE_LAUNCH(topk_narrow_kernel<F>, 1, kThreads, args.amount, pass, state_ptr, counts_ptr);
  }
  FASTPRUNE_LAUNCH((topk_sweep_kernel<F, M>), grid_for(list.tiles), kThreads, list, options,
                   state_ptr, ties_ptr);
  FASTPRUNE_LAUNCH(topk_quota_kernel<Key>, 1, kThreads, state_ptr, list.tiles, ties_ptr);
  FASTPRUNE_LAUNCH((topk_ties_kernel<F, M>), grid_for(list.tiles), kThreads, list, options,
                   state_ptr, ties_ptr);
  if (args.amount.is_count && args.any_mask && active_only) {
    // Whether a count fits is known on the device alone; a fraction always does.
    const at::Tensor host = state.cpu();
    check_count_fits(args.amount,
                     reinterpret_cast<const SelectionState<Key>*>(host.const_data_ptr())->active);
  }
}

std::vector<at::Tensor> topk_masks(at::TensorList scores,
                                   const c10::List<std::optional<at::Tensor>>& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  TopkArgs args = check_topk_masks(scores, masks, amount, dtype);
  if (scores.empty()) return {};
  if (!args.any_mask || !active_only || args.total == 0) check_count_fits(args.amount, args.total);
  const DeviceGuard guard(scores[0]);
  dispatch_score(scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto element) {
      select<decltype(format), decltype(element)>(args, active_only, largest);
    });
  });
  return args.finish();
}

// Not fused yet: the products are a second set of launches.
std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>> topk_prune(
    at::TensorList scores, const c10::List<std::optional<at::Tensor>>& masks, at::TensorList ts,
    const at::Scalar& amount, bool active_only) {
  check_topk_prune(scores, ts);
  if (scores.empty()) return {};
  std::vector<at::Tensor> out =
      topk_masks(scores, masks, amount, active_only, /*largest=*/false, std::nullopt);
  std::vector<at::Tensor> products = masked_muls(ts, out);
  return {std::move(out), std::move(products)};
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("topk_masks", &topk_masks);
  m.impl("topk_prune", &topk_prune);
}

}  // namespace fastprune::cuda
