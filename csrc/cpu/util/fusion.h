// The products that selection on the CPU fuses: those that take no conversion.
#pragma once

#include <type_traits>

#include "common/fusion.h"
#include "common/mask_operands.h"

namespace fastprune::cpu {

constexpr FusionRule kFusion{/*half=*/false, /*byte_masks=*/false};

// fn(has_mask, with_product): whether there is an old mask, and whether the product is fused.
template <class F, class M, class Fn>
void dispatch_operands(const MaskOperands<F, M>& io, const Fn& fn) {
  const auto masked = [&](auto has_mask) {
    if constexpr (can_multiply<F, M>(kFusion, has_mask.value)) {
      if (io.product != nullptr) return fn(has_mask, std::true_type{});
    }
    fn(has_mask, std::false_type{});
  };
  io.mask == nullptr ? masked(std::false_type{}) : masked(std::true_type{});
}

}  // namespace fastprune::cpu
