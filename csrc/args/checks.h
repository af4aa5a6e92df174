// Argument checks, called first by every CPU and CUDA kernel. A message names the argument, what
// was expected and what came. Exception types are the ones torch.nn.utils.prune raises.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <string>
#include <vector>

#include "common/selection.h"
#include "dispatch/fallback.h"

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

inline void check_mask(const char* op, const std::string& name, const at::Tensor& mask,
                       const std::string& of_name, const at::Tensor& of) {
  check_mask_dtype(op, name, mask.scalar_type());
  TORCH_CHECK(mask.layout() == at::kStrided, op, "(): expected ", name, " to be strided, got ",
              mask.layout());
  TORCH_CHECK(mask.sizes() == of.sizes(), op, "(): expected ", name, " to have the shape of ",
              of_name, ", ", of.sizes(), ", got ", mask.sizes());
  TORCH_CHECK(mask.device() == of.device(), op, "(): expected ", name, " to be on the device of ",
              of_name, ", ", of.device(), ", got ", mask.device());
}

// An integer is a count, a float a fraction, as in torch.nn.utils.prune.
inline Amount check_amount(const at::Scalar& amount) {
  if (amount.isIntegral(/*includeBool=*/true)) {
    const int64_t count = amount.toLong();
    TORCH_CHECK_VALUE(count >= 0, "amount=", count,
                      " should either be a float in the range [0, 1] or a non-negative integer");
    return {true, count, 0.0};
  }
  TORCH_CHECK_TYPE(amount.isFloatingPoint(), "Invalid type for amount: ", amount,
                   ". Must be int or float.");
  const double fraction = amount.toDouble();
  TORCH_CHECK_VALUE(fraction >= 0.0 && fraction <= 1.0, "amount=", fraction,
                    " should either be a float in the range [0, 1] or a non-negative integer");
  return {false, 0, fraction};
}

// Upstream's words for a count that does not fit.
inline void check_count_fits(const Amount& amount, int64_t active) {
  TORCH_CHECK_VALUE(!amount.is_count || amount.count <= active, "amount=", amount.count,
                    " should be smaller than the number of parameters to prune=", active);
}

inline int64_t check_dim(const char* op, int64_t dim, const at::Tensor& t) {
  TORCH_CHECK_VALUE(t.dim() > 1, op, "(): expected a tensor of two or more dims, got shape ",
                    t.sizes());
  TORCH_CHECK_INDEX(dim < t.dim() && dim >= -t.dim(), op, "(): Invalid index ", dim,
                    " for tensor of size ", t.sizes());
  return dim < 0 ? dim + t.dim() : dim;
}

// Checked arguments of topk_masks, in the one form the kernels take: contiguous data, so that the
// position in memory is the logical index. `out` has the layout the caller will see.
struct TopkArgs {
  std::vector<at::Tensor> scores;
  std::vector<at::Tensor> masks;  // undefined: every entry is active
  std::vector<at::Tensor> out;
  std::vector<at::Tensor> work;  // contiguous stand-in for out, or out itself
  std::vector<at::Tensor> ts;    // of topk_prune: contiguous, as are the products
  std::vector<at::Tensor> products;
  at::ScalarType mask_dtype = at::kFloat;
  Amount amount{};
  int64_t total = 0;

  // Whether any mask was given: without, every entry is active and the count is known.
  bool any_mask = false;

  std::vector<at::Tensor> finish() {
    for (size_t i = 0; i < out.size(); ++i) {
      if (!work[i].is_same(out[i])) out[i].copy_(work[i]);
    }
    return std::move(out);
  }
};

inline TopkArgs check_topk_masks(at::TensorList scores,
                                 const c10::List<std::optional<at::Tensor>>& masks,
                                 const at::Scalar& amount, std::optional<at::ScalarType> dtype) {
  constexpr const char* op = "topk_masks";
  TopkArgs args;
  args.amount = check_amount(amount);
  TORCH_CHECK(masks.empty() || masks.size() == scores.size(), op,
              "(): expected one mask for each of ", scores.size(), " scores, or none, got ",
              masks.size());
  const at::Tensor* first_mask = nullptr;
  std::vector<at::Tensor> given(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::string name = "scores[" + std::to_string(i) + "]";
    check_floating(op, name, scores[i]);
    TORCH_CHECK(scores[i].scalar_type() == scores[0].scalar_type(), op, "(): expected ", name,
                " to have the dtype of scores[0], ", scores[0].scalar_type(), ", got ",
                scores[i].scalar_type());
    TORCH_CHECK(scores[i].device() == scores[0].device(), op, "(): expected ", name,
                " to be on the device of scores[0], ", scores[0].device(), ", got ",
                scores[i].device());
    args.total += scores[i].numel();
    const std::optional<at::Tensor> mask =
        masks.empty() ? std::nullopt : std::optional<at::Tensor>(masks.get(i));
    if (!mask.has_value() || !mask->defined()) continue;
    given[i] = *mask;
    const std::string mask_name = "masks[" + std::to_string(i) + "]";
    check_mask(op, mask_name, given[i], name, scores[i]);
    if (first_mask == nullptr) first_mask = &given[i];
    TORCH_CHECK(given[i].scalar_type() == first_mask->scalar_type(), op, "(): expected ", mask_name,
                " to have the dtype of the other masks, ", first_mask->scalar_type(), ", got ",
                given[i].scalar_type());
  }
  if (scores.empty()) return args;
  args.any_mask = first_mask != nullptr;
  args.mask_dtype =
      first_mask != nullptr ? first_mask->scalar_type() : dtype.value_or(scores[0].scalar_type());
  check_mask_dtype(op, "dtype", args.mask_dtype);
  TORCH_CHECK(!dtype.has_value() || *dtype == args.mask_dtype, op,
              "(): expected dtype to be that of the masks, ", args.mask_dtype, ", got ",
              dtype.value_or(args.mask_dtype));
  for (size_t i = 0; i < scores.size(); ++i) {
    args.scores.push_back(scores[i].contiguous());
    args.masks.push_back(given[i].defined() ? given[i].contiguous() : at::Tensor());
    args.out.push_back(at::empty_like(scores[i], scores[i].options().dtype(args.mask_dtype)));
    args.work.push_back(args.out[i].is_contiguous()
                            ? args.out[i]
                            : at::empty_like(args.out[i], at::MemoryFormat::Contiguous));
  }
  return args;
}

inline void check_topk_prune(at::TensorList scores, at::TensorList ts) {
  constexpr const char* op = "topk_prune";
  TORCH_CHECK(ts.size() == scores.size(), op, "(): expected as many ts as scores, ", scores.size(),
              ", got ", ts.size());
  for (size_t i = 0; i < ts.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, "ts" + at_i, ts[i]);
    TORCH_CHECK(ts[i].sizes() == scores[i].sizes(), op, "(): expected ts", at_i,
                " to have the shape of scores", at_i, ", ", scores[i].sizes(), ", got ",
                ts[i].sizes());
    TORCH_CHECK(ts[i].device() == scores[i].device(), op, "(): expected ts", at_i,
                " to be on the device of scores", at_i, ", ", scores[i].device(), ", got ",
                ts[i].device());
  }
}

// Whether products can be written with the masks: in order of index, as the masks are.
inline bool can_fuse(const TopkArgs& args, at::TensorList ts) {
  for (const at::Tensor& t : ts) {
    if (t.scalar_type() != args.scores[0].scalar_type() || !t.is_contiguous()) return false;
  }
  return true;
}

// A tensor seen as [outer, channels, inner] around `dim`.
struct ChannelView {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

inline ChannelView channel_view(const at::Tensor& t, int64_t dim) {
  ChannelView view{1, t.size(dim), 1};
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d < dim) view.outer *= t.size(d);
    if (d > dim) view.inner *= t.size(d);
  }
  return view;
}

struct ChannelMaskArgs {
  at::Tensor scores;  // float64, contiguous
  at::Tensor mask;    // contiguous, or undefined
  at::Tensor out;
  at::Tensor work;
  at::Tensor t;        // to be multiplied with the mask, or undefined
  at::Tensor product;  // then; contiguous
  ChannelView view{};
  Amount amount{};

  at::Tensor finish() {
    if (!work.is_same(out)) out.copy_(work);
    return out;
  }
};

// `name` is what the op calls the tensor that the mask is of the shape of.
inline ChannelMaskArgs check_channel_mask(const char* op, const at::Tensor& scores,
                                          const char* name, const at::Tensor& like,
                                          const std::optional<at::Tensor>& mask,
                                          const at::Scalar& amount, int64_t dim) {
  ChannelMaskArgs args;
  args.amount = check_amount(amount);
  dim = check_dim(op, dim, like);
  check_floating(op, "scores", scores);
  check_floating(op, name, like);
  TORCH_CHECK(scores.dim() == 1 && scores.size(0) == like.size(dim), op,
              "(): expected scores to have one entry for each of the ", like.size(dim),
              " channels, got shape ", scores.sizes());
  TORCH_CHECK(scores.device() == like.device(), op, "(): expected scores to be on the device of ",
              name, ", ", like.device(), ", got ", scores.device());
  if (mask.has_value() && mask->defined()) {
    check_mask(op, "mask", *mask, name, like);
    args.mask = mask->contiguous();
  }
  args.scores = scores.to(at::kDouble).contiguous();
  args.view = channel_view(like, dim);
  args.out = at::empty_like(like, like.options().dtype(args.mask.defined() ? args.mask.scalar_type()
                                                                           : like.scalar_type()));
  args.work =
      args.out.is_contiguous() ? args.out : at::empty_like(args.out, at::MemoryFormat::Contiguous);
  return args;
}

// Has the product written with the mask where both are of one dtype and in order of index.
inline bool fuse_product(ChannelMaskArgs& args, const at::Tensor& t) {
  if (args.out.scalar_type() != t.scalar_type() || !t.is_contiguous()) return false;
  args.t = t;
  args.product = at::empty_like(t);
  return true;
}

inline void check_combine_masks(const at::Tensor& old_mask, const at::Tensor& new_mask) {
  check_mask_dtype("combine_masks", "old_mask", old_mask.scalar_type());
  check_mask("combine_masks", "new_mask", new_mask, "old_mask", old_mask);
}

inline void check_masked_mul(const char* op, const at::Tensor& t, const at::Tensor& mask) {
  check_floating(op, "t", t);
  check_mask(op, "mask", mask, "t", t);
}

inline void check_masked_muls(const char* op, at::TensorList ts, at::TensorList masks) {
  check_lengths(op, ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) {
    const std::string at_i = "[" + std::to_string(i) + "]";
    check_floating(op, "ts" + at_i, ts[i]);
    check_mask(op, "masks" + at_i, masks[i], "ts" + at_i, ts[i]);
  }
}

}  // namespace fastprune
