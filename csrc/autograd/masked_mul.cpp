// Gradients of masked_mul, in C++ because it runs in every forward. The gradient of t is
// grad * mask, itself a masked_mul, so that double backward works; the mask gets none.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/autograd.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../checks.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor call_masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastprune::masked_mul", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&)>();
  return op.call(t, mask);
}

void call_masked_mul_(at::Tensor& t, const at::Tensor& mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastprune::masked_mul_", "")
                             .typed<void(at::Tensor&, const at::Tensor&)>();
  op.call(t, mask);
}

std::vector<at::Tensor> call_masked_muls(at::TensorList ts, at::TensorList masks) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastprune::masked_muls", "")
                             .typed<std::vector<at::Tensor>(at::TensorList, at::TensorList)>();
  return op.call(ts, masks);
}

class MaskedMul : public torch::autograd::Function<MaskedMul> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& t, const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({mask});
    return call_masked_mul(t, mask);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_masked_mul(grads[0], ctx->get_saved_variables()[0]), at::Tensor()};
  }
};

class MaskedMulInplace : public torch::autograd::Function<MaskedMulInplace> {
 public:
  static at::Tensor forward(AutogradContext* ctx, at::Tensor t, const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->mark_dirty({t});
    ctx->save_for_backward({mask});
    call_masked_mul_(t, mask);
    return t;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_masked_mul(grads[0], ctx->get_saved_variables()[0]), at::Tensor()};
  }
};

// A product that an operator over a list has made already, as a function of its own t: each of the
// list can go backward without the others. By pointer, as what forward gets as a tensor is an
// input.
class MadeMul : public torch::autograd::Function<MadeMul> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& t, const at::Tensor* mask,
                            const at::Tensor* product) {
    ctx->save_for_backward({*mask});
    return *product;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {call_masked_mul(grads[0], ctx->get_saved_variables()[0]), at::Tensor(), at::Tensor()};
  }
};

// Gives each product whose t requires grad its graph.
void attach(at::TensorList ts, at::TensorList masks, std::vector<at::Tensor>& products) {
  if (!at::GradMode::is_enabled()) return;
  for (size_t i = 0; i < ts.size(); ++i) {
    if (ts[i].requires_grad()) products[i] = MadeMul::apply(ts[i], &masks[i], &products[i]);
  }
}

at::Tensor masked_mul(const at::Tensor& t, const at::Tensor& mask) {
  if (at::GradMode::is_enabled() && t.requires_grad()) return MaskedMul::apply(t, mask);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_masked_mul(t, mask);
}

void masked_mul_(at::Tensor& t, const at::Tensor& mask) {
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
  check_masked_muls("masked_muls", ts, masks);
  std::vector<at::Tensor> products;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    products = call_masked_muls(ts, masks);
  }
  attach(ts, masks, products);
  return products;
}

using Masks = c10::List<std::optional<at::Tensor>>;
using TwoLists = std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>>;

TwoLists call_topk_prune(at::TensorList scores, const Masks& masks, at::TensorList ts,
                         const at::Scalar& amount, bool active_only) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fastprune::topk_prune", "")
          .typed<TwoLists(at::TensorList, const Masks&, at::TensorList, const at::Scalar&, bool)>();
  return op.call(scores, masks, ts, amount, active_only);
}

TwoLists topk_prune(at::TensorList scores, const Masks& masks, at::TensorList ts,
                    const at::Scalar& amount, bool active_only) {
  TwoLists made;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    made = call_topk_prune(scores, masks, ts, amount, active_only);
  }
  attach(ts, std::get<0>(made), std::get<1>(made));
  return made;
}

using Two = std::tuple<at::Tensor, at::Tensor>;

Two call_channel_prune(const at::Tensor& scores, const at::Tensor& t,
                       const std::optional<at::Tensor>& mask, const at::Scalar& amount, int64_t dim,
                       bool active_only) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fastprune::channel_prune", "")
          .typed<Two(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                     const at::Scalar&, int64_t, bool)>();
  return op.call(scores, t, mask, amount, dim, active_only);
}

Two channel_prune(const at::Tensor& scores, const at::Tensor& t,
                  const std::optional<at::Tensor>& mask, const at::Scalar& amount, int64_t dim,
                  bool active_only) {
  at::Tensor made, product;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    std::tie(made, product) = call_channel_prune(scores, t, mask, amount, dim, active_only);
  }
  if (at::GradMode::is_enabled() && t.requires_grad()) product = MadeMul::apply(t, &made, &product);
  return {std::move(made), std::move(product)};
}

// Masks and norms carry no gradient, whatever their inputs require.
void without_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                      torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_mul", &masked_mul);
  m.impl("masked_mul_", &masked_mul_);
  m.impl("masked_muls", &masked_muls);
  m.impl("topk_prune", &topk_prune);
  m.impl("channel_prune", &channel_prune);
  for (const char* op : {"topk_masks", "channel_norms", "channel_mask", "combine_masks"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&without_gradient>());
  }
}

}  // namespace fastprune::autograd
