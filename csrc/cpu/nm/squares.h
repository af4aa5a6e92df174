// 2:4 both ways on the CPU: a block of squares, one to a lane. Entry e of all squares is a row, so
// that the loops over lanes are vectorised, as in block.h.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "common/nm_both.h"
#include "common/scaled.h"
#include "cpu/nm/block.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

template <class F, class M>
struct SquaresBlock {
  using Bits = typename F::Bits;

  alignas(64) Bits scores[kSquare][kLanes];
  alignas(64) M mask[kSquare][kLanes];
  alignas(64) Bits product[kSquare][kLanes];  // what to multiply, then the product
  alignas(64) double values[kSquare][kLanes];
  alignas(64) WideOf<F> factor[kSquare][kLanes];
  alignas(64) uint16_t kept[kLanes];  // patterns
};

template <class F, class M>
FASTPRUNE_MULTIVERSION void set_values(SquaresBlock<F, M>& block, bool is_signed) {
  for (int e = 0; e < kSquare; ++e) {
    for (int l = 0; l < kLanes; ++l) {
      block.values[e][l] = both_score<F>(block.scores[e][l], is_signed);
    }
  }
}

template <class F, class M>
FASTPRUNE_MULTIVERSION void set_scaled_values(SquaresBlock<F, M>& block) {
  for (int e = 0; e < kSquare; ++e) {
    for (int l = 0; l < kLanes; ++l) {
      block.values[e][l] = both_scaled_score<F>(block.scores[e][l], block.factor[e][l]);
    }
  }
}

FASTPRUNE_MULTIVERSION inline void choose_patterns(const double (*__restrict__ values)[kLanes],
                                                   uint16_t* __restrict__ kept) {
  alignas(64) int64_t best[kLanes];  // as wide as the sums, so that one vector holds as many
  for (int l = 0; l < kLanes; ++l) {
    best[l] = BestPattern::of([&](int e) { return values[e][l]; });
  }
  for (int l = 0; l < kLanes; ++l) kept[l] = static_cast<uint16_t>(best[l]);
}

template <class F, class M, bool kProduct>
FASTPRUNE_MULTIVERSION void write_squares(SquaresBlock<F, M>& block, M one) {
  for (int e = 0; e < kSquare; ++e) {
    const auto bit = static_cast<uint16_t>(1 << (kSquare - 1 - e));
    for (int l = 0; l < kLanes; ++l) {
      const bool pruned = (block.kept[l] & bit) == 0;
      block.mask[e][l] = pruned ? M{0} : one;
      if constexpr (kProduct) {
        block.product[e][l] =
            product_of<F, M, /*kHasMask=*/false>(block.mask[e][l], pruned, block.product[e][l]);
      }
    }
  }
}

}  // namespace fastprune::cpu
