// fastprune's operators, called through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <vector>

#include "common/op_types.h"

namespace fastprune {

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline at::Tensor call_masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&)>("fastprune::masked_mul");
  return op.call(t, mask);
}

inline void call_masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  static const auto op = find_op<void(at::Tensor&, const at::Tensor&)>("fastprune::masked_mul_");
  op.call(t, mask);
}

inline std::vector<at::Tensor> call_masked_muls(at::TensorList ts, at::TensorList masks) {
  static const auto op =
      find_op<std::vector<at::Tensor>(at::TensorList, at::TensorList)>("fastprune::masked_muls");
  return op.call(ts, masks);
}

inline void call_masked_muls_(at::TensorList ts, at::TensorList masks) {
  static const auto op = find_op<void(at::TensorList, at::TensorList)>("fastprune::masked_muls_");
  op.call(ts, masks);
}

inline std::vector<at::Tensor> call_topk_masks(at::TensorList scores,
                                               const OptionalTensorList& masks, ScalarList amount,
                                               const OptionalTensorList& factors,
                                               bool active_only) {
  static const auto op = find_op<std::vector<at::Tensor>(
      at::TensorList, const OptionalTensorList&, ScalarList, const OptionalTensorList&, bool, bool,
      std::optional<at::ScalarType>)>("fastprune::topk_masks");
  return op.call(scores, masks, amount, factors, active_only, /*largest=*/false,
                 /*dtype=*/std::nullopt);
}

inline TensorLists call_topk_prune(at::TensorList scores, const OptionalTensorList& masks,
                                   at::TensorList ts, ScalarList amount,
                                   const OptionalTensorList& factors, bool active_only) {
  static const auto op =
      find_op<TensorLists(at::TensorList, const OptionalTensorList&, at::TensorList, ScalarList,
                          const OptionalTensorList&, bool)>("fastprune::topk_prune");
  return op.call(scores, masks, ts, amount, factors, active_only);
}

inline std::vector<at::Tensor> call_nm_masks(at::TensorList scores, const OptionalTensorList& masks,
                                             int64_t n, int64_t m, int64_t dim,
                                             const OptionalTensorList& factors, bool is_signed,
                                             bool both) {
  static const auto op = find_op<std::vector<at::Tensor>(
      at::TensorList, const OptionalTensorList&, int64_t, int64_t, int64_t,
      const OptionalTensorList&, bool, std::optional<at::ScalarType>, bool)>("fastprune::nm_masks");
  return op.call(scores, masks, n, m, dim, factors, is_signed, /*dtype=*/std::nullopt, both);
}

inline TensorLists call_nm_prune(at::TensorList scores, const OptionalTensorList& masks,
                                 at::TensorList ts, int64_t n, int64_t m, int64_t dim,
                                 const OptionalTensorList& factors, bool is_signed, bool both) {
  static const auto op =
      find_op<TensorLists(at::TensorList, const OptionalTensorList&, at::TensorList, int64_t,
                          int64_t, int64_t, const OptionalTensorList&, bool, bool)>(
          "fastprune::nm_prune");
  return op.call(scores, masks, ts, n, m, dim, factors, is_signed, both);
}

inline std::vector<at::Tensor> call_row_masks(at::TensorList scores,
                                              const OptionalTensorList& masks,
                                              const at::Scalar& amount, int64_t dim,
                                              const OptionalTensorList& factors, bool absolute,
                                              bool is_signed) {
  static const auto op =
      find_op<std::vector<at::Tensor>(at::TensorList, const OptionalTensorList&, const at::Scalar&,
                                      int64_t, const OptionalTensorList&, bool, bool,
                                      std::optional<at::ScalarType>)>("fastprune::row_masks");
  return op.call(scores, masks, amount, dim, factors, absolute, is_signed, /*dtype=*/std::nullopt);
}

inline TensorLists call_row_prune(at::TensorList scores, const OptionalTensorList& masks,
                                  at::TensorList ts, const at::Scalar& amount, int64_t dim,
                                  const OptionalTensorList& factors, bool absolute,
                                  bool is_signed) {
  static const auto op =
      find_op<TensorLists(at::TensorList, const OptionalTensorList&, at::TensorList,
                          const at::Scalar&, int64_t, const OptionalTensorList&, bool, bool)>(
          "fastprune::row_prune");
  return op.call(scores, masks, ts, amount, dim, factors, absolute, is_signed);
}

inline std::vector<at::Tensor> call_block_masks(at::TensorList units,
                                                const OptionalTensorList& masks,
                                                at::TensorList likes, at::IntArrayRef block) {
  static const auto op =
      find_op<std::vector<at::Tensor>(at::TensorList, const OptionalTensorList&, at::TensorList,
                                      at::IntArrayRef, std::optional<at::ScalarType>)>(
          "fastprune::block_masks");
  return op.call(units, masks, likes, block, /*dtype=*/std::nullopt);
}

inline TensorLists call_block_prune(at::TensorList units, const OptionalTensorList& masks,
                                    at::TensorList ts, at::IntArrayRef block) {
  static const auto op =
      find_op<TensorLists(at::TensorList, const OptionalTensorList&, at::TensorList,
                          at::IntArrayRef)>("fastprune::block_prune");
  return op.call(units, masks, ts, block);
}

inline at::Tensor call_channel_mask(const at::Tensor& scores, const at::Tensor& like,
                                    const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                                    int64_t dim, bool active_only) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                         const at::Scalar&, int64_t, bool)>("fastprune::channel_mask");
  return op.call(scores, like, mask, amount, dim, active_only);
}

inline TensorPair call_channel_prune(const at::Tensor& scores, const at::Tensor& t,
                                     const std::optional<at::Tensor>& mask,
                                     const at::Scalar& amount, int64_t dim, bool active_only) {
  static const auto op =
      find_op<TensorPair(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                         const at::Scalar&, int64_t, bool)>("fastprune::channel_prune");
  return op.call(scores, t, mask, amount, dim, active_only);
}

}  // namespace fastprune
