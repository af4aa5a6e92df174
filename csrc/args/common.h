// Argument checks that several operators need. A message names the argument, the expected and the
// actual value. Exception types are the ones torch.nn.utils.prune raises.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string>
#include <utility>

#include "args/fresh.h"
#include "common/dtypes.h"
#include "common/fusion.h"
#include "common/selection.h"

namespace fastprune {

inline void check_floating(const char* op, const std::string& name, const at::Tensor& t) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_native_float(t.scalar_type()), op, "(): expected ", name,
                              " to be float64, float32, float16 or bfloat16, got ",
                              t.scalar_type());
  TORCH_CHECK(t.layout() == at::kStrided, op, "(): expected ", name, " to be strided, got ",
              t.layout());
}

inline void check_mask_dtype(const char* op, const std::string& name, at::ScalarType dtype) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_mask_dtype(dtype), op, "(): expected ", name,
                              " to be floating point, bool or an integer, got ", dtype);
}

inline void check_like(const char* op, const std::string& name, const at::Tensor& t,
                       const std::string& of_name, const at::Tensor& of) {
  TORCH_CHECK(t.sizes() == of.sizes(), op, "(): expected ", name, " to have the shape of ", of_name,
              ", ", of.sizes(), ", got ", t.sizes());
  TORCH_CHECK(t.device() == of.device(), op, "(): expected ", name, " to be on the device of ",
              of_name, ", ", of.device(), ", got ", t.device());
}

inline void check_mask(const char* op, const std::string& name, const at::Tensor& mask,
                       const std::string& of_name, const at::Tensor& of) {
  check_mask_dtype(op, name, mask.scalar_type());
  TORCH_CHECK(mask.layout() == at::kStrided, op, "(): expected ", name, " to be strided, got ",
              mask.layout());
  check_like(op, name, mask, of_name, of);
}

// A list beside the scores: as long, or empty.
inline void check_one_each(const char* op, const char* what, size_t count, size_t scores) {
  TORCH_CHECK(count == 0 || count == scores, op, "(): expected one ", what, " for each of ", scores,
              " scores, or none, got ", count);
}

inline void check_lengths(const char* op, at::TensorList ts, at::TensorList masks) {
  TORCH_CHECK(ts.size() == masks.size(), op, "(): expected as many masks as tensors, ", ts.size(),
              ", got ", masks.size());
}

// An integer is a count, a float a fraction, as in torch.nn.utils.prune.
inline void check_amount(const at::Scalar& amount) {
  if (amount.isIntegral(/*includeBool=*/true)) {
    TORCH_CHECK_VALUE(amount.toLong() >= 0, "amount=", amount.toLong(),
                      " should either be a float in the range [0, 1] or a non-negative integer");
    return;
  }
  TORCH_CHECK_TYPE(amount.isFloatingPoint(), "Invalid type for amount: ", amount,
                   ". Must be int or float.");
  const double fraction = amount.toDouble();
  TORCH_CHECK_VALUE(fraction >= 0.0 && fraction <= 1.0, "amount=", fraction,
                    " should either be a float in the range [0, 1] or a non-negative integer");
}

inline Amount to_amount(const at::Scalar& amount) {
  if (amount.isIntegral(/*includeBool=*/true)) return {true, amount.toLong(), 0.0};
  return {false, 0, amount.toDouble()};
}

// Upstream's words for a count that does not fit.
inline void check_count_fits(const Amount& amount, int64_t active) {
  TORCH_CHECK_VALUE(!amount.is_count || amount.count <= active, "amount=", amount.count,
                    " should be smaller than the number of parameters to prune=", active);
}

// An output that a kernel writes in logical order: `work` is contiguous, and `out` itself if that
// is.
struct Output {
  at::Tensor out;
  at::Tensor work;

  Output(const at::Tensor& like, at::ScalarType dtype)
      : out(fresh_like(like, dtype)),
        work(out.is_contiguous() ? out : fresh(out.sizes(), dtype, out.device())) {}

  at::Tensor finish() {
    if (!work.is_same(out)) out.copy_(work);
    return std::move(out);
  }
};

// Whether a kernel that ranks tensors of a dtype writes the product with t beside the mask. It
// reads t as it reads what it ranks.
inline bool fuses_product(const FusionRule& rule, const at::Tensor& t, at::ScalarType ranked,
                          at::ScalarType mask_dtype, bool has_old_mask) {
  return t.is_contiguous() && t.scalar_type() == ranked &&
         fuses(rule, mask_dtype == ranked, is_byte_mask(mask_dtype), t.element_size(),
               has_old_mask);
}

}  // namespace fastprune
