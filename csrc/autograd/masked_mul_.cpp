// masked_mul_: plain tensors go to the kernels, all others to ATen's multiplication.
#include <torch/autograd.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "autograd/product.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class MaskedMulInplace : public torch::autograd::Function<MaskedMulInplace> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::Tensor t, const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->mark_dirty({t});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({mask});
    call_masked_mul_(t, mask);
    return t;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {masked_mul_backward(grads[0], ctx->get_saved_variables()[0]), at::Tensor()};
  }
};

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  if (!is_plain_pair(t, mask)) return aten_masked_mul_(t, mask);
  const bool with_grad = at::GradMode::is_enabled() && t.requires_grad();
  torch::autograd::check_inplace(t, with_grad);
  if (with_grad) {
    MaskedMulInplace::apply(t, mask);
    return;
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    call_masked_mul_(t, mask);
  }
  torch::autograd::increment_version(t);  // for graphs that have saved t
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul_", &masked_mul_);
}

}  // namespace fastprune::autograd
