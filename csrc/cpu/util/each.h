// What the operators of args/ take from the CPU, and what kernels that make masks do around them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "args/list.h"
#include "common/dtypes.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/util/denormals.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"

namespace fastprune::cpu {

struct OnCpu {
  struct Guard {
    explicit Guard(const at::Tensor&) {}
  };

  static constexpr FusionRule kFusion = cpu::kFusion;

  static bool keeps_bits(const at::Tensor& t) { return cpu::keeps_bits(t); }

  static std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
    return cpu::masked_muls(ts, masks);
  }
};

// fn(format, bits) for the format of the tensor and the bits of its mask.
template <class Fn>
void dispatch_mask_args(const MaskArgs& args, const Fn& fn) {
  advise_huge_pages(args.output.work);
  if (args.product.defined()) advise_huge_pages(args.product);
  dispatch_scores(args.dtype, [&](auto format) {
    dispatch_mask_width(args.output.work.element_size(), [&](auto bits) { fn(format, bits); });
  });
}

// The pages of the outputs of some entries.
template <class F, class M>
void populate_pages(const MaskOperands<F, M>& operands, int64_t first, int64_t entries) {
  populate_pages(operands.out + first, entries * static_cast<int64_t>(sizeof(M)));
  if (operands.product == nullptr) return;
  populate_pages(operands.product + first,
                 entries * static_cast<int64_t>(sizeof(typename F::Bits)));
}

}  // namespace fastprune::cpu
