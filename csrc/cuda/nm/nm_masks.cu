// nm_masks and nm_prune on CUDA. Here the operators.
#include "cuda/nm/nm_masks.h"

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "args/each.h"
#include "args/nm.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

auto keep_by(const NmRule& rule) {
  return [rule](const EachArgs& args) {
    dispatch_scores(args.scores.scalar_type(),
                    [&](auto format) { launch_nm<decltype(format)>(args, rule); });
  };
}

std::vector<at::Tensor> nm_masks(at::TensorList scores, const MaskList& masks, int64_t n, int64_t m,
                                 int64_t dim, const MaskList& factors, bool is_signed,
                                 std::optional<at::ScalarType> dtype) {
  constexpr const char* op = "nm_masks";
  return masks_of_each<EachOnCuda>(
      {op, scores, to_vector(masks), to_vector(factors), dim, is_signed, dtype},
      keep_by(checked_nm_rule(op, n, m)));
}

TensorLists nm_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts, int64_t n,
                     int64_t m, int64_t dim, const MaskList& factors, bool is_signed) {
  constexpr const char* op = "nm_prune";
  return prune_each<EachOnCuda>(
      {op, scores, to_vector(masks), to_vector(factors), dim, is_signed, std::nullopt}, ts,
      keep_by(checked_nm_rule(op, n, m)));
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("nm_masks", &nm_masks);
  m.impl("nm_prune", &nm_prune);
}

}  // namespace fastprune::cuda
