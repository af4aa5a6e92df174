// masked_muls_ on CUDA: one launch for all tensors of a device whose masks are of one kind and
// whose entries are of one width; for masks to multiply by, of one dtype.
#include "cuda/elementwise/zero_pruned.cuh"

namespace fastprune::cuda {

// `out` of an item is the tensor.
template <class Bits>
__global__ void __launch_bounds__(ElementwisePolicy::kThreads)
    zero_by_bools_kernel(const TensorList list) {
  const auto span = tile_span<Bits, uint8_t, Bits>(list, blockIdx.x);
  zero_pruned(span.out, span.size, span.vectorized, KeptByBools{span.mask});
}

template <class Bits>
__global__ void __launch_bounds__(ElementwisePolicy::kThreads, kOneBlock)
    zero_by_bits_kernel(const TensorList list) {
  const TensorItem item = item_at<&TensorItem::first_tile>(list, blockIdx.x);
  const int64_t first = (blockIdx.x - item.first_tile) * kTile;
  const int size = tile_size(item.size, first);
  Bits* t = static_cast<Bits*>(item.out) + first;
  const auto* mask = static_cast<const uint8_t*>(item.mask);
  if (item.cols == item.size) {
    zero_pruned(t, size, item.vectorized, KeptByBits{mask + first / 8});
  } else {
    const PackedRows rows{item.cols, packed_bytes(item.cols)};
    const KeptByRows kept{mask + first / rows.cols * rows.bytes, first % rows.cols, rows};
    zero_pruned(t, size, item.vectorized, kept);
  }
}

}  // namespace fastprune::cuda

#include <ATen/core/Tensor.h>

#include <vector>

#include "args/masked_pairs.h"
#include "common/dtypes.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"
#include "cuda/util/tile_map.h"
#include "dispatch/calls.h"

namespace fastprune::cuda {
namespace {

using Pairs = std::vector<const MaskedPair*>;

template <class Bits>
TensorItem item_of(const MaskedPair& pair) {
  void* t = pair.t.mutable_data_ptr();
  const void* mask = pair.mask.const_data_ptr();
  const int64_t size = pair.t.numel();
  if (pair.kind == MaskKind::kBool) return make_item<Bits, uint8_t, Bits>(t, mask, t, size);
  TensorItem item = make_item<Bits, uint8_t, Bits>(t, nullptr, t, size);
  item.mask = mask;  // read by bytes, so it need not be aligned
  item.cols = pair.rows.cols;
  return item;
}

template <class Bits>
void zero(const Pairs& pairs) {
  TileMap map;
  for (const MaskedPair* pair : pairs) map.add(item_of<Bits>(*pair));
  if (map.tiles() == 0) return;
  const unsigned grid = grid_of_tiles(map.tiles());
  const TensorList list = map.list(pairs[0]->t.device());
  if (pairs[0]->kind == MaskKind::kBool) {
    FASTPRUNE_LAUNCH((zero_by_bools_kernel<Bits>), grid, ElementwisePolicy::kThreads, list);
  } else {
    FASTPRUNE_LAUNCH((zero_by_bits_kernel<Bits>), grid, ElementwisePolicy::kThreads, list);
  }
}

void multiply(const Pairs& pairs) {
  std::vector<SameLayout> flat;
  std::vector<at::Tensor> out;
  for (const MaskedPair* pair : pairs) {
    flat.push_back({pair->t, pair->mask});
    out.push_back(pair->t);
  }
  multiply_flat(flat, out);
}

// Whether one launch takes both.
bool are_alike(const MaskedPair& a, const MaskedPair& b) {
  if (a.kind != b.kind || a.t.device() != b.t.device()) return false;
  if (a.kind != MaskKind::kFactor) return a.t.element_size() == b.t.element_size();
  return a.t.scalar_type() == b.t.scalar_type() && a.mask.scalar_type() == b.mask.scalar_type();
}

void apply_masks(at::TensorList ts, at::TensorList masks) {
  std::vector<MaskedPair> pairs;
  for (size_t i = 0; i < ts.size(); ++i) pairs.push_back(to_masked_pair(ts[i], masks[i]));
  std::vector<bool> done(pairs.size(), false);
  for (size_t first = 0; first < pairs.size(); ++first) {
    if (done[first]) continue;
    const DeviceGuard guard(pairs[first].t);
    Pairs alike;
    for (size_t i = first; i < pairs.size(); ++i) {
      if (done[i] || !are_alike(pairs[first], pairs[i])) continue;
      alike.push_back(&pairs[i]);
      done[i] = true;
    }
    if (pairs[first].kind == MaskKind::kFactor) {
      multiply(alike);
    } else {
      dispatch_scores(pairs[first].t.scalar_type(),
                      [&](auto scores) { zero<typename decltype(scores)::Bits>(alike); });
    }
  }
  copy_back(pairs);
}

// A list may also hold tensors of the CPU.
void masked_muls_(at::TensorList ts, at::TensorList masks) {
  check_masked_muls_(ts, masks);
  std::vector<at::Tensor> here[2];
  std::vector<at::Tensor> elsewhere[2];
  for (size_t i = 0; i < ts.size(); ++i) {
    auto& of = ts[i].device().type() == kDeviceType ? here : elsewhere;
    of[0].push_back(ts[i]);
    of[1].push_back(masks[i]);
  }
  masked_muls_by(here[0], here[1], apply_masks);
  if (!elsewhere[0].empty()) call_masked_muls_(elsewhere[0], elsewhere[1]);
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("masked_muls_", &masked_muls_);
}

}  // namespace fastprune::cuda
