// Arguments of channel_norms, channel_mask and channel_prune: checked first, then prepared in the
// one form that the kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "args/common.h"
#include "common/channel_shape.h"

namespace fastprune {

inline void check_dim(const char* op, int64_t dim, const at::Tensor& t) {
  TORCH_CHECK_VALUE(t.dim() > 1, op, "(): expected a tensor of two or more dims, got shape ",
                    t.sizes());
  TORCH_CHECK_INDEX(dim < t.dim() && dim >= -t.dim(), op, "(): Invalid index ", dim,
                    " for tensor of size ", t.sizes());
}

// A negative dim counts from the last.
inline ChannelShape channel_shape(const at::Tensor& t, int64_t dim) {
  return channel_shape(t.sizes().data(), t.dim(), dim < 0 ? dim + t.dim() : dim);
}

inline void check_channel_norms(const at::Tensor& t, int64_t dim) {
  check_floating("channel_norms", "t", t);
  check_dim("channel_norms", dim, t);
}

// `name` is what the op calls `like`, whose shape the mask has.
inline void check_channel_mask(const char* op, const at::Tensor& scores, const char* name,
                               const at::Tensor& like, const std::optional<at::Tensor>& mask,
                               const at::Scalar& amount, int64_t dim) {
  check_amount(amount);
  check_dim(op, dim, like);
  check_floating(op, "scores", scores);
  check_floating(op, name, like);
  TORCH_CHECK(scores.dim() == 1 && scores.size(0) == like.size(dim), op,
              "(): expected scores to have one entry for each of the ", like.size(dim),
              " channels, got shape ", scores.sizes());
  TORCH_CHECK(scores.device() == like.device(), op, "(): expected scores to be on the device of ",
              name, ", ", like.device(), ", got ", scores.device());
  if (mask.has_value() && mask->defined()) check_mask(op, "mask", *mask, name, like);
}

struct ChannelMaskArgs {
  at::Tensor scores;  // float64, contiguous
  at::Tensor mask;    // contiguous, or undefined
  Output output;
  // Of channel_prune, if fused; else undefined.
  at::Tensor t;
  at::Tensor product;
  ChannelShape shape;
  Amount amount;
};

inline ChannelMaskArgs prepare_channel_mask(const at::Tensor& scores, const at::Tensor& like,
                                            const std::optional<at::Tensor>& mask,
                                            const at::Scalar& amount, int64_t dim) {
  const bool masked = mask.has_value() && mask->defined();
  return {scores.to(at::kDouble).contiguous(),
          masked ? mask->contiguous() : at::Tensor(),
          Output(like, masked ? mask->scalar_type() : like.scalar_type()),
          {},
          {},
          channel_shape(like, dim),
          to_amount(amount)};
}

// Allocates the product if it can be fused: with a mask of its own dtype.
inline void prepare_channel_prune(ChannelMaskArgs& args, const at::Tensor& t) {
  if (!t.is_contiguous() || args.output.out.scalar_type() != t.scalar_type()) return;
  args.t = t;
  args.product = fresh_like(t);
}

}  // namespace fastprune
