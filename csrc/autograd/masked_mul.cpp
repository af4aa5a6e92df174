// masked_mul: in C++, as it runs in every forward. Plain tensors go to the kernels, all others to
// ATen's multiplication.
#include <torch/autograd.h>
#include <torch/library.h>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class MaskedMul : public torch::autograd::Function<MaskedMul> {
 public:
  static constexpr bool is_traceable = true;  // by compiled autograd: backward uses saved tensors

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& t, const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({mask});
    return call_masked_mul(t, mask);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {masked_mul_backward(grads[0], ctx->get_saved_variables()[0]), at::Tensor()};
  }
};

// A Function's node costs microseconds more than one of ATen's own, which is more than our kernels
// save on products of fewer entries than this.
constexpr int64_t kFunctionFrom = int64_t{1} << 18;

bool is_aten_faster(const at::Tensor& t, const at::Tensor& mask) {
  return t.numel() < kFunctionFrom && t.scalar_type() == mask.scalar_type() &&
         t.strides() == mask.strides();  // else the layout of the product would be the mask's
}

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (!is_plain_pair(t, mask)) return aten_masked_mul(t, mask);
  if (at::GradMode::is_enabled() && t.requires_grad()) {
    return is_aten_faster(t, mask) ? aten_masked_mul(t, mask) : MaskedMul::apply(t, mask);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_masked_mul(t, mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul", &masked_mul);
}

}  // namespace fastprune::autograd
