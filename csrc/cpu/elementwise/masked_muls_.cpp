// masked_muls_ on the CPU: one parallel region for the whole list.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "args/masked_pairs.h"
#include "common/dtypes.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/elementwise/zero_pruned.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;

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
  struct Piece {
    size_t pair;
    int64_t begin;
    int64_t end;
  };
  std::vector<MaskedPair> pairs;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < ts.size(); ++i) {
    pairs.push_back(to_masked_pair(ts[i], to_factor(masks[i], ts[i].scalar_type())));
    const int64_t size = ts[i].numel();
    for (int64_t at = 0; at < size; at += kGrain) {
      pieces.push_back({i, at, std::min(size, at + kGrain)});
    }
  }
  const auto count = static_cast<int64_t>(pieces.size());
  for_each_worker(worker_count(count), count, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      apply_mask(pairs[pieces[p].pair], pieces[p].begin, pieces[p].end);
    }
  });
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
