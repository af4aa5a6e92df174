// Arguments of nm_masks and nm_prune: checked first, then prepared in the one form that the kernels
// take.
#pragma once

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "args/common.h"
#include "args/factor.h"
#include "args/topk.h"
#include "common/fusion.h"
#include "common/nm.h"

namespace fastprune {

// Masks and factors are undefined where there are none.
inline void check_nm_masks(const char* op, at::TensorList scores, at::TensorList masks, int64_t n,
                           int64_t m, int64_t dim, at::TensorList factors, bool is_signed,
                           std::optional<at::ScalarType> dtype) {
  TORCH_CHECK_VALUE(m >= 1 && m <= kMostRun, op, "(): expected m to be between 1 and ", kMostRun,
                    ", got ", m);
  TORCH_CHECK_VALUE(n >= 0 && n <= m, op, "(): expected n to be between 0 and m, ", m, ", got ", n);
  TORCH_CHECK(masks.empty() || masks.size() == scores.size(), op,
              "(): expected one mask for each of ", scores.size(), " scores, or none, got ",
              masks.size());
  TORCH_CHECK(factors.empty() || factors.size() == scores.size(), op,
              "(): expected one factor for each of ", scores.size(), " scores, or none, got ",
              factors.size());
  TORCH_CHECK_VALUE(!is_signed || factors.empty(), op,
                    "(): a factor multiplies magnitudes, so it cannot be given with is_signed");
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, "scores" + at_i, scores[i]);
    const int64_t dims = scores[i].dim();
    TORCH_CHECK_INDEX(dim < dims && dim >= -dims, op, "(): Invalid index ", dim,
                      " for tensor of size ", scores[i].sizes());
    if (!masks.empty() && masks[i].defined()) {
      check_mask(op, "masks" + at_i, masks[i], "scores" + at_i, scores[i]);
    }
    if (!factors.empty() && factors[i].defined()) {
      check_factor(op, "factors" + at_i, factors[i], "scores" + at_i, scores[i]);
    }
  }
  if (dtype.has_value()) check_mask_dtype(op, "dtype", *dtype);
}

// Of one tensor. Inputs are contiguous but for the factor.
struct NmArgs {
  at::Tensor scores;
  at::Tensor mask;  // undefined: every entry is active
  Factor factor;
  Output output;
  // Of nm_prune, if fused; else undefined.
  at::Tensor t;
  at::Tensor product;
  Runs runs;
  NmRule rule;

  NmArgs(const at::Tensor& of, const at::Tensor& old, const at::Tensor& by, int64_t dim,
         const NmRule& nm, std::optional<at::ScalarType> dtype)
      : scores(of.contiguous()),
        mask(old.defined() ? old.contiguous() : at::Tensor()),
        factor(by, of, dim < 0 ? dim + of.dim() : dim),
        output(of, old.defined() ? old.scalar_type() : dtype.value_or(of.scalar_type())),
        runs(channel_shape(of.sizes().data(), of.dim(), dim < 0 ? dim + of.dim() : dim), nm.run),
        rule(nm) {}

  // Allocates the product if it can be fused.
  void prepare_product(const at::Tensor& with, const FusionRule& fusion) {
    const at::ScalarType mask_dtype = output.out.scalar_type();
    if (!with.is_contiguous() || with.scalar_type() != scores.scalar_type() ||
        !fuses(fusion, mask_dtype == with.scalar_type(), is_byte_mask(mask_dtype),
               with.element_size(), mask.defined())) {
      return;
    }
    t = with;
    product = fresh_like(with);
  }
};

inline at::Tensor at_or_none(at::TensorList tensors, size_t i) {
  return tensors.empty() ? at::Tensor() : tensors[i];
}

}  // namespace fastprune
