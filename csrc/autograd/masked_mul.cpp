// masked_mul and its forms, with autograd in C++ because they run in every forward. Plain tensors
// go to the kernels; all others, and masks that require a gradient, to ATen's own multiplication.
#include <torch/autograd.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <vector>

#include "args/checks.h"
#include "autograd/calls.h"
#include "autograd/products.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool is_native(const at::Tensor& t, const at::Tensor& mask) {
  return is_plain(t) && is_plain_mask(mask) && is_native_pair(t, mask);
}

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

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (!is_native(t, mask)) return aten_masked_mul(t, mask);
  if (at::GradMode::is_enabled() && t.requires_grad()) return MaskedMul::apply(t, mask);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_masked_mul(t, mask);
}

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  if (!is_native(t, mask)) return aten_masked_mul_(t, mask);
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

std::vector<at::Tensor> masked_muls(at::TensorList ts, at::TensorList masks) {
  check_lengths("masked_muls", ts, masks);
  for (size_t i = 0; i < ts.size(); ++i) {
    if (!is_native(ts[i], masks[i])) return aten_masked_muls(ts, masks);
  }
  std::vector<at::Tensor> products;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    products = call_masked_muls(ts, masks);
  }
  attach_products(ts, masks, products);
  return products;
}

// For backends without kernels of ours, meta tensors among them.
at::Tensor masked_mul_elsewhere(const at::Tensor& t, const at::Tensor& mask) {
  has_kernels(t.device().type());
  return aten_masked_mul(t, mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul", &masked_mul);
  m.impl("masked_mul_", &masked_mul_);
  m.impl("masked_muls", &masked_muls);
}

TORCH_LIBRARY_IMPL(fastprune, CompositeExplicitAutograd, m) {
  m.impl("masked_mul", &masked_mul_elsewhere);
  m.impl("masked_mul_", &aten_masked_mul_);
  m.impl("masked_muls", &aten_masked_muls);
}

// What traces, batches or intercepts operators sees those of ATen.
#define FASTPRUNE_DECOMPOSE(key)              \
  TORCH_LIBRARY_IMPL(fastprune, key, m) {     \
    m.impl("masked_mul", &aten_masked_mul);   \
    m.impl("masked_mul_", &aten_masked_mul_); \
    m.impl("masked_muls", &aten_masked_muls); \
  }

FASTPRUNE_DECOMPOSE(Tracer)
FASTPRUNE_DECOMPOSE(FuncTorchBatched)
FASTPRUNE_DECOMPOSE(Functionalize)
FASTPRUNE_DECOMPOSE(PreDispatch)
FASTPRUNE_DECOMPOSE(Python)

}  // namespace fastprune::autograd
