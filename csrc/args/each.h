// Arguments of the operators that decide each tensor of a list by itself, nm_masks and row_masks:
// checked first, then prepared in the one form that the kernels take. And the loops over a list.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <vector>

#include "args/common.h"
#include "args/factor.h"
#include "args/topk.h"
#include "common/channel_shape.h"
#include "common/fusion.h"
#include "common/op_types.h"

namespace fastprune {

struct EachList {
  const char* op;
  at::TensorList scores;
  std::vector<at::Tensor> masks;    // undefined where there are none, or empty
  std::vector<at::Tensor> factors;  // as masks
  int64_t dim;
  bool is_signed;
  std::optional<at::ScalarType> dtype;
};

inline void check_each(const EachList& list) {
  const auto& [op, scores, masks, factors, dim, is_signed, dtype] = list;
  check_one_each(op, "mask", masks.size(), scores.size());
  check_one_each(op, "factor", factors.size(), scores.size());
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
struct EachArgs {
  at::Tensor scores;
  at::Tensor mask;  // undefined: every entry is active
  Factor factor;
  Output output;
  // Of nm_prune and row_prune, if fused; else undefined.
  at::Tensor t;
  at::Tensor product;
  ChannelShape shape;  // around the dim
  bool is_signed;

  EachArgs(const EachList& list, size_t i)
      : EachArgs(list.scores[i], list.masks.empty() ? at::Tensor() : list.masks[i],
                 list.factors.empty() ? at::Tensor() : list.factors[i],
                 list.dim < 0 ? list.dim + list.scores[i].dim() : list.dim, list) {}

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

 private:
  EachArgs(const at::Tensor& of, const at::Tensor& old, const at::Tensor& by, int64_t dim,
           const EachList& list)
      : scores(of.contiguous()),
        mask(old.defined() ? old.contiguous() : at::Tensor()),
        factor(by, of, dim),
        output(of, old.defined() ? old.scalar_type() : list.dtype.value_or(of.scalar_type())),
        shape(channel_shape(of.sizes().data(), of.dim(), dim)),
        is_signed(list.is_signed) {}
};

// The masks that `decide(args)` writes. Device: cpu/util/each.h or cuda/util/each.h.
template <class Device, class Decide>
std::vector<at::Tensor> masks_of_each(const EachList& list, const Decide& decide) {
  check_each(list);
  std::vector<at::Tensor> masks;
  for (size_t i = 0; i < list.scores.size(); ++i) {
    const typename Device::Guard guard(list.scores[i]);
    EachArgs args(list, i);
    if (args.scores.numel() > 0) decide(args);
    masks.push_back(args.output.finish());
  }
  return masks;
}

// And their products with ts.
template <class Device, class Decide>
TensorLists prune_each(const EachList& list, at::TensorList ts, const Decide& decide) {
  check_prune(list.op, list.scores, ts);
  check_each(list);
  TensorLists result;
  auto& [masks, products] = result;
  for (size_t i = 0; i < list.scores.size(); ++i) {
    const typename Device::Guard guard(list.scores[i]);
    EachArgs args(list, i);
    if (Device::keeps_bits(ts[i])) args.prepare_product(ts[i], Device::kFusion);
    if (args.scores.numel() > 0) decide(args);
    masks.push_back(args.output.finish());
    products.push_back(args.product.defined() ? args.product
                                              : Device::masked_mul(ts[i], masks.back()));
  }
  return result;
}

}  // namespace fastprune
