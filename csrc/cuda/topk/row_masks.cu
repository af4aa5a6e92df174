// row_masks and row_prune on CUDA: one launch for a tensor. Here the operators.
#include <ATen/ATen.h>

#include <limits>
#include <optional>
#include <vector>

#include "args/each.h"
#include "args/row.h"
#include "common/dtypes.h"
#include "common/op_types.h"
#include "cuda/topk/row_kernel.cuh"
#include "cuda/util/each.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

template <class F, class M>
RowTask<F, M> row_task(const EachArgs& args, const RowRule& rule, long long* least_active) {
  using Bits = typename F::Bits;
  const auto pointer = [](const at::Tensor& t) {
    return t.defined() ? t.const_data_ptr() : nullptr;
  };
  return {static_cast<const Bits*>(args.scores.const_data_ptr()),
          static_cast<const M*>(pointer(args.mask)),
          static_cast<M*>(args.output.work.mutable_data_ptr()),
          static_cast<const Bits*>(pointer(args.t)),
          args.product.defined() ? static_cast<Bits*>(args.product.mutable_data_ptr()) : nullptr,
          device_factor(args.factor),
          args.shape,
          rule,
          args.is_signed,
          static_cast<M>(one_bits(args.output.out.scalar_type())),
          least_active};
}

void launch_rows(const EachArgs& args, const RowRule& rule, long long* least_active) {
  const unsigned grid = grid_for<TopkPolicy>(args.shape.channels);
  dispatch_scores(args.scores.scalar_type(), [&](auto format) {
    dispatch_mask_width(args.output.work.element_size(), [&](auto bits) {
      using F = decltype(format);
      using M = decltype(bits);
      const RowTask<F, M> task = row_task<F, M>(args, rule, least_active);
      FASTPRUNE_LAUNCH((row_kernel<F, M>), grid, TopkPolicy::kThreads, task);
    });
  });
}

auto prune_rows_by(const RowRule& rule) {
  return [rule](const EachArgs& args) {
    if (!rule.amount.is_count || !args.mask.defined()) {
      check_count_fits(rule.amount, args.shape.entries());
      return launch_rows(args, rule, nullptr);
    }
    // How many entries of a row are active is known on the device alone.
    const at::Tensor least =
        at::full({}, std::numeric_limits<int64_t>::max(), args.scores.options().dtype(at::kLong));
    static_assert(sizeof(long long) == sizeof(int64_t));
    launch_rows(args, rule, reinterpret_cast<long long*>(least.mutable_data_ptr<int64_t>()));
    check_count_fits(rule.amount, least.item<int64_t>());
  };
}

std::vector<at::Tensor> row_masks(at::TensorList scores, const MaskList& masks,
                                  const at::Scalar& amount, int64_t dim, const MaskList& factors,
                                  bool absolute, bool is_signed,
                                  std::optional<at::ScalarType> dtype) {
  constexpr const char* op = "row_masks";
  return masks_of_each<EachOnCuda>(
      {op, scores, to_vector(masks), to_vector(factors), dim, is_signed, dtype},
      prune_rows_by(checked_row_rule(op, amount, absolute)));
}

TensorLists row_prune(at::TensorList scores, const MaskList& masks, at::TensorList ts,
                      const at::Scalar& amount, int64_t dim, const MaskList& factors, bool absolute,
                      bool is_signed) {
  constexpr const char* op = "row_prune";
  return prune_each<EachOnCuda>(
      {op, scores, to_vector(masks), to_vector(factors), dim, is_signed, std::nullopt}, ts,
      prune_rows_by(checked_row_rule(op, amount, absolute)));
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("row_masks", &row_masks);
  m.impl("row_prune", &row_prune);
}

}  // namespace fastprune::cuda
