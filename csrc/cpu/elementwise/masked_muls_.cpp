// masked_muls_ on the CPU: one parallel region for the whole list.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <vector>

#include "args/masked_pairs.h"
#include "common/dtypes.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/elementwise/zero_pruned.h"
#include "cpu/util/pieces.h"

namespace fastprune::cpu {
namespace {

// Entries [begin, end) in order of memory.
void apply_mask(const MaskedPair& pair, int64_t begin, int64_t end) {
  if (pair.kind == MaskKind::kFactor) {
    return multiply_range({pair.t, pair.mask}, pair.t, begin, end);
  }
  dispatch_scores(pair.t.scalar_type(), [&](auto scores) {
    using Bits = typename decltype(scores)::Bits;
    const auto* mask = static_cast<const uint8_t*>(pair.mask.const_data_ptr());
    auto* t = static_cast<Bits*>(pair.t.mutable_data_ptr());
    if (pair.kind == MaskKind::kBool) {
      zero_pruned(mask, t, begin, end);
    } else {
      zero_pruned(mask, pair.rows, t, begin, end);
    }
  });
}

void apply_masks(at::TensorList ts, at::TensorList masks) {
  std::vector<MaskedPair> pairs;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < ts.size(); ++i) {
    pairs.push_back(to_masked_pair(ts[i], to_factor(masks[i], ts[i].scalar_type())));
    sizes.push_back(ts[i].numel());
  }
  for_each_piece(sizes,
                 [&](size_t i, int64_t begin, int64_t end) { apply_mask(pairs[i], begin, end); });
  copy_back(pairs);
}

void masked_muls_(at::TensorList ts, at::TensorList masks) {
  masked_muls_by(ts, masks, apply_masks);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("masked_muls_", &masked_muls_);
}

}  // namespace fastprune::cpu
