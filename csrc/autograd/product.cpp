#include "autograd/product.h"

#include <ATen/ops/mul.h>
#include <torch/autograd.h>

#include "dispatch/calls.h"
#include "dispatch/owned.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Takes pointers, as Function treats every Tensor argument of forward as a differentiable input.
class ComputedProduct : public torch::autograd::Function<ComputedProduct> {
 public:
  static constexpr bool is_traceable = true;  // by compiled autograd: backward uses saved tensors

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& t, const at::Tensor* mask,
                            const at::Tensor* product) {
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({*mask});
    return *product;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {masked_mul_backward(grads[0], ctx->get_saved_variables()[0]), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor masked_mul_backward(const at::Tensor& grad, const at::Tensor& mask) {
  if (!grad.defined()) return at::Tensor();
  if (grad.layout() != at::kStrided) {  // nn.Embedding(sparse=True)
    return at::mul(grad, mask.to(grad.scalar_type()));
  }
  if (at::GradMode::is_enabled() || !is_plain_pair(grad, mask)) return call_masked_mul(grad, mask);
  at::AutoDispatchBelowADInplaceOrView below;
  if (grad.requires_grad() || !is_owned_by_one(grad)) return call_masked_mul(grad, mask);
  at::Tensor product = grad;
  call_masked_mul_(product, mask);
  return product;
}

void attach_product(const at::Tensor& t, const at::Tensor& mask, at::Tensor& product) {
  if (at::GradMode::is_enabled() && t.requires_grad()) {
    product = ComputedProduct::apply(t, &mask, &product);
  }
}

void attach_products(at::TensorList ts, at::TensorList masks, std::vector<at::Tensor>& products) {
  for (size_t i = 0; i < ts.size(); ++i) attach_product(ts[i], masks[i], products[i]);
}

}  // namespace fastprune::autograd
