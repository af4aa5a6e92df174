// nm_masks and nm_prune on CUDA. Here the operators.
#include "cuda/nm/nm_masks.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>
#include <vector>

#include "args/nm.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/elementwise/masked_mul.h"
#include "cuda/nm/nm_kernel.cuh"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

NmArgs prepare(const at::Tensor& scores, const at::Tensor& mask, at::Tensor factor, int64_t n,
               int64_t m, int64_t dim, bool is_signed, std::optional<at::ScalarType> dtype) {
  if (factor.defined() && factor.element_size() == 2 &&
      factor.scalar_type() != scores.scalar_type()) {
    factor = factor.to(at::kFloat);
  }
  return NmArgs(scores, mask, factor, dim, {static_cast<int>(n), static_cast<int>(m), is_signed},
                dtype);
}

at::Tensor run(NmArgs& args) {
  if (args.runs.count() > 0) {
    dispatch_scores(args.scores.scalar_type(),
                    [&](auto format) { launch_nm<decltype(format)>(args); });
  }
  return args.output.finish();
}

std::vector<at::Tensor> nm_masks(at::TensorList scores, const MaskList& masks, int64_t n, int64_t m,
                                 int64_t dim, const MaskList& factors, bool is_signed,
                                 std::optional<at::ScalarType> dtype) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_nm_masks("nm_masks", scores, old_masks, n, m, dim, by, is_signed, dtype);
  std::vector<at::Tensor> result;
  for (size_t i = 0; i < scores.size(); ++i) {
    const DeviceGuard guard(scores[i]);
    NmArgs args = prepare(scores[i], at_or_none(old_masks, i), at_or_none(by, i), n, m, dim,
                          is_signed, dtype);
    result.push_back(run(args));
  }
  return result;
}

TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed) {
  const std::vector<at::Tensor> old_masks = to_vector(masks);
  const std::vector<at::Tensor> by = to_vector(factors);
  check_prune("nm_prune", scores, ts);
  check_nm_masks("nm_prune", scores, old_masks, n, m, dim, by, is_signed, std::nullopt);
  TensorLists result;
  auto& [new_masks, products] = result;
  for (size_t i = 0; i < scores.size(); ++i) {
    const DeviceGuard guard(scores[i]);
    NmArgs args = prepare(scores[i], at_or_none(old_masks, i), at_or_none(by, i), n, m, dim,
                          is_signed, std::nullopt);
    args.prepare_product(ts[i], kNmFusion);
    new_masks.push_back(run(args));
    products.push_back(args.product.defined() ? args.product
                                              : masked_muls(ts[i], new_masks.back())[0]);
  }
  return result;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("nm_masks", &nm_masks);
  m.impl("nm_prune", &nm_prune);
}

}  // namespace fastprune::cuda
