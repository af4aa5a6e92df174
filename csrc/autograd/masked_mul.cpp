// Gradients of masked_mul, in C++ because it runs in every forward. The gradient of t is
// grad * mask, itself a masked_mul, so that double backward works; the mask gets none.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/autograd.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
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

class MaskedMuls : public torch::autograd::Function<MaskedMuls> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList ts, at::TensorList masks) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward(masks.vec());
    return call_masked_muls(ts, masks);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list masks = ctx->get_saved_variables();
    variable_list out(2 * masks.size());
    for (size_t i = 0; i < masks.size(); ++i) {
      if (grads[i].defined()) out[i] = call_masked_mul(grads[i], masks[i]);
    }
    return out;
  }
};

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
  // Two calls at most: one for the tensors that require grad, one for the others.
  std::vector<at::Tensor> out(ts.size());
  for (const bool with_grad : {true, false}) {
    std::vector<at::Tensor> some, their_masks;
    std::vector<size_t> at;
    for (size_t i = 0; i < ts.size(); ++i) {
      if ((at::GradMode::is_enabled() && ts[i].requires_grad()) != with_grad) continue;
      some.push_back(ts[i]);
      their_masks.push_back(masks[i]);
      at.push_back(i);
    }
    if (some.empty()) continue;
    std::vector<at::Tensor> products;
    if (with_grad) {
      products = MaskedMuls::apply(at::TensorList(some), at::TensorList(their_masks));
    } else {
      at::AutoDispatchBelowADInplaceOrView below;
      products = call_masked_muls(some, their_masks);
    }
    for (size_t i = 0; i < at.size(); ++i) out[at[i]] = products[i];
  }
  return out;
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

// The products of topk_prune as functions of ts; `compute` makes them and the masks.
class Products : public torch::autograd::Function<Products> {
 public:
  using Compute = std::function<TwoLists()>;

  static variable_list forward(AutogradContext* ctx, at::TensorList ts, const Compute& compute,
                               std::vector<at::Tensor>* masks) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [out, products] = compute();
    ctx->save_for_backward(out);
    *masks = std::move(out);
    return std::move(products);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list masks = ctx->get_saved_variables();
    variable_list out(masks.size() + 2);  // one for each argument of forward
    for (size_t i = 0; i < masks.size(); ++i) {
      if (grads[i].defined()) out[i] = call_masked_mul(grads[i], masks[i]);
    }
    return out;
  }
};

TwoLists topk_prune(at::TensorList scores, const Masks& masks, at::TensorList ts,
                    const at::Scalar& amount, bool active_only) {
  const auto compute = [&] { return call_topk_prune(scores, masks, ts, amount, active_only); };
  const bool needs_grad =
      at::GradMode::is_enabled() &&
      std::any_of(ts.begin(), ts.end(), [](const at::Tensor& t) { return t.requires_grad(); });
  if (!needs_grad) {
    at::AutoDispatchBelowADInplaceOrView below;
    return compute();
  }
  std::vector<at::Tensor> new_masks;
  variable_list products = Products::apply(ts, Products::Compute(compute), &new_masks);
  return {std::move(new_masks), std::move(products)};
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
  for (const char* op : {"topk_masks", "channel_norms", "channel_mask", "combine_masks"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&without_gradient>());
  }
}

}  // namespace fastprune::autograd
