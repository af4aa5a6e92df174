// topk_masks on the CPU: scores times a factor, which are made a block at a time and never stored.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "args/factor.h"
#include "common/dtypes.h"
#include "common/scaled.h"
#include "cpu/util/compact.h"
#include "cpu/util/scaled.h"

namespace fastprune::cpu {

// F is what scores of any dtype are multiplied in, Fp32 or Fp64.
template <class F>
class ScaledScores {
 public:
  ScaledScores(const at::Tensor& scores, const Factor& factor) : scores_(scores), factor_(factor) {}

  // The bits of n products, from an entry of the tensor on; n is at most kBlock.
  void read(int64_t first, int64_t n, typename F::Bits* to) const {
    WideOf<F> by[kBlock];
    if (factor_.exists()) {
      factor_.read_inner(0, 0, first, n, by);
    } else {
      std::fill_n(by, n, WideOf<F>{1});
    }
    dispatch_scores(scores_.scalar_type(), [&](auto format) {
      using S = decltype(format);
      if constexpr (std::is_same_v<typename S::Key, typename F::Bits>) {
        const auto* scores = static_cast<const typename S::Bits*>(scores_.const_data_ptr());
        // A key is the bits of its magnitude.
        set_scaled_keys<S>(scores + first, by, to, static_cast<int32_t>(n));
      }
    });
  }

 private:
  const at::Tensor& scores_;
  FactorReader factor_;
};

}  // namespace fastprune::cpu
