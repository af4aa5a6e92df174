// Arguments of topk_masks and topk_prune: checked first, then prepared in the one form that the
// kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "args/common.h"
#include "args/factor.h"
#include "common/fusion.h"
#include "common/op_types.h"

namespace fastprune {

// Undefined where there is no mask.
inline std::vector<at::Tensor> to_vector(const OptionalTensorList& masks) {
  std::vector<at::Tensor> result;
  result.reserve(masks.size());
  for (size_t i = 0; i < masks.size(); ++i) {
    result.push_back(masks.get(i).value_or(at::Tensor()));
  }
  return result;
}

// All masks are of one dtype: that of the old masks, of `dtype`, or of the scores.
inline at::ScalarType topk_mask_dtype(at::TensorList scores, at::TensorList masks,
                                      std::optional<at::ScalarType> dtype) {
  for (const at::Tensor& mask : masks) {
    if (mask.defined()) return mask.scalar_type();
  }
  return dtype.value_or(scores[0].scalar_type());
}

// Masks and factors are undefined where there are none.
inline void check_topk_masks(const char* op, at::TensorList scores, at::TensorList masks,
                             ScalarList amount, at::TensorList factors,
                             std::optional<at::ScalarType> dtype) {
  for (const at::Scalar& each : amount) check_amount(each);
  TORCH_CHECK(amount.size() == 1 || amount.size() == scores.size(), op,
              "(): expected one amount, or one for each of ", scores.size(), " scores, got ",
              amount.size());
  check_one_each(op, "mask", masks.size(), scores.size());
  check_one_each(op, "factor", factors.size(), scores.size());
  if (scores.empty()) return;
  const at::ScalarType mask_dtype = topk_mask_dtype(scores, masks, dtype);
  for (size_t i = 0; i < scores.size(); ++i) {
    check_ranked(op, scores, masks, factors, i);
    TORCH_CHECK(scores[i].scalar_type() == scores[0].scalar_type(), op, "(): expected scores[", i,
                "] to have the dtype of scores[0], ", scores[0].scalar_type(), ", got ",
                scores[i].scalar_type());
    TORCH_CHECK(scores[i].device() == scores[0].device(), op, "(): expected scores[", i,
                "] to be on the device of scores[0], ", scores[0].device(), ", got ",
                scores[i].device());
    if (masks.empty() || !masks[i].defined()) continue;
    TORCH_CHECK(masks[i].scalar_type() == mask_dtype, op, "(): expected masks[", i,
                "] to have the dtype of the other masks, ", mask_dtype, ", got ",
                masks[i].scalar_type());
  }
  check_mask_dtype(op, "dtype", mask_dtype);
  TORCH_CHECK(!dtype.has_value() || *dtype == mask_dtype, op,
              "(): expected dtype to be that of the masks, ", mask_dtype, ", got ",
              dtype.value_or(mask_dtype));
}

// What is multiplied with the masks of an operator that selects by scores.
inline void check_prune(const char* op, at::TensorList scores, at::TensorList ts) {
  TORCH_CHECK(ts.size() == scores.size(), op, "(): expected as many ts as scores, ", scores.size(),
              ", got ", ts.size());
  for (size_t i = 0; i < ts.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, "ts" + at_i, ts[i]);
    check_like(op, "ts" + at_i, ts[i], "scores" + at_i, scores[i]);
  }
}

// Inputs are contiguous, so that the position in memory is the logical index.
struct TopkArgs {
  std::vector<at::Tensor> scores;
  std::vector<at::Tensor> masks;  // undefined: every entry is active
  std::vector<Factor> factors;    // one for each of the scores, or none
  std::vector<Output> outputs;
  // Of topk_prune, if fused; else empty.
  std::vector<at::Tensor> ts;
  std::vector<at::Tensor> products;
  at::ScalarType mask_dtype;
  std::vector<Amount> amounts;  // one over all tensors, or one for each
  int64_t total = 0;            // entries
  bool any_mask = false;

  // Adds a tensor of other arguments, with the amount of its own.
  void append(const TopkArgs& other, size_t s) {
    scores.push_back(other.scores[s]);
    masks.push_back(other.masks[s]);
    if (!other.factors.empty()) factors.push_back(other.factors[s]);
    outputs.push_back(other.outputs[s]);
    if (!other.products.empty()) {
      ts.push_back(other.ts[s]);
      products.push_back(other.products[s]);
    }
    mask_dtype = other.mask_dtype;
    amounts.push_back(other.amounts[s]);
    total += scores.back().numel();
    any_mask |= masks.back().defined();
  }

  // Of what is ranked: with factors, what products are computed in.
  at::ScalarType rank_dtype() const {
    const at::ScalarType dtype = scores[0].scalar_type();
    return factors.empty() || dtype == at::kDouble ? dtype : at::kFloat;
  }

  std::vector<at::Tensor> finish() {
    std::vector<at::Tensor> out;
    out.reserve(outputs.size());
    for (Output& output : outputs) out.push_back(output.finish());
    return out;
  }
};

// Where every entry is active.
inline void check_counts_fit(const TopkArgs& args) {
  if (args.amounts.size() == 1) return check_count_fits(args.amounts[0], args.total);
  for (size_t s = 0; s < args.scores.size(); ++s) {
    check_count_fits(args.amounts[s], args.scores[s].numel());
  }
}

// There is at least one tensor.
inline TopkArgs prepare_topk_masks(at::TensorList scores, at::TensorList masks, ScalarList amount,
                                   at::TensorList factors, std::optional<at::ScalarType> dtype) {
  TopkArgs args;
  for (const at::Scalar& each : amount) args.amounts.push_back(to_amount(each));
  args.mask_dtype = topk_mask_dtype(scores, masks, dtype);
  for (size_t i = 0; i < scores.size(); ++i) {
    const bool masked = !masks.empty() && masks[i].defined();
    args.any_mask |= masked;
    args.total += scores[i].numel();
    args.scores.push_back(scores[i].contiguous());
    if (!factors.empty()) args.factors.emplace_back(factors[i], scores[i], /*dim=*/-1);
    args.masks.push_back(masked ? masks[i].contiguous() : at::Tensor());
    args.outputs.emplace_back(scores[i], args.mask_dtype);
  }
  return args;
}

// Allocates the products if all of them can be fused.
inline void prepare_topk_prune(TopkArgs& args, at::TensorList ts, const FusionRule& rule) {
  for (const at::Tensor& t : ts) {
    if (!fuses_product(rule, t, args.rank_dtype(), args.mask_dtype, args.any_mask)) return;
  }
  for (const at::Tensor& t : ts) {
    args.ts.push_back(t);
    args.products.push_back(fresh_like(t));
  }
}

// Device: cpu/util/each.h or cuda/util/each.h. kSelect writes the masks, and the products if they
// are prepared.
template <class Device, auto kSelect>
std::vector<at::Tensor> topk_masks(at::TensorList scores, const OptionalTensorList& masks,
                                   ScalarList amount, const OptionalTensorList& factors,
                                   bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_topk_masks("topk_masks", scores, old_masks, amount, by, dtype);
  if (scores.empty()) return {};
  const typename Device::Guard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, by, dtype);
  kSelect(args, active_only, largest);
  return args.finish();
}

template <class Device, auto kSelect>
TensorLists topk_prune(at::TensorList scores, const OptionalTensorList& masks, at::TensorList ts,
                       ScalarList amount, const OptionalTensorList& factors, bool active_only) {
  check_prune("topk_prune", scores, ts);
  if (scores.empty()) return {};
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_topk_masks("topk_prune", scores, old_masks, amount, by, std::nullopt);
  const typename Device::Guard guard(scores[0]);
  TopkArgs args = prepare_topk_masks(scores, old_masks, amount, by, std::nullopt);
  if (Device::keeps_bits(ts[0])) prepare_topk_prune(args, ts, Device::kFusion);
  kSelect(args, active_only, /*largest=*/false);
  std::vector<at::Tensor> new_masks = args.finish();
  if (args.products.empty()) args.products = Device::masked_muls(ts, new_masks);
  return {std::move(new_masks), std::move(args.products)};
}

}  // namespace fastprune
