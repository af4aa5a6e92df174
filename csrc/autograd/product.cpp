#include "autograd/product.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "args/elementwise.h"
#include "dispatch/calls.h"
#include "dispatch/owned.h"
#include "dispatch/plain.h"

namespace fastprune::autograd {
namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;
using torch::autograd::generated::MulBackward0;

#ifdef _WIN32
using ProductBackward = MulBackward0;  // whose members torch does not export there
#else
// The node of mask * t, so that a graph is what upstream's is: its name, the order of its inputs,
// what compiled autograd makes of it. The multiplication is ours, and a mask of a byte is saved as
// it is.
struct ProductBackward final : MulBackward0 {
  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return {at::Tensor(), masked_mul_backward(grads[0], self_.unpack())};
  }
};
#endif

template <class T>
std::shared_ptr<T> make_node(const std::shared_ptr<Node>*) {
  return std::shared_ptr<T>(new T, [](T* node) { deleteNode(node); });
}
template <class T>
c10::intrusive_ptr<T> make_node(const c10::intrusive_ptr<Node>*) {
  return c10::make_intrusive<T>();
}

// What the backward multiplies by. Of a mask of another dtype ATen saves a converted copy, so that
// the mask itself may change before then; one of a byte is smaller as it is, and kernels take it.
at::Tensor saved_mask(const at::Tensor& t, const at::Tensor& mask) {
  const at::Tensor factor = to_factor(mask, t.scalar_type());
  return factor.scalar_type() == t.scalar_type() ? factor : factor.clone();
}

}  // namespace

at::Tensor masked_mul_backward(const at::Tensor& grad, const at::Tensor& mask) {
  if (!grad.defined()) return at::Tensor();
  const bool is_sparse = grad.layout() != at::kStrided;  // nn.Embedding(sparse=True)
  if (is_sparse || at::GradMode::is_enabled() || !is_plain_pair(grad, mask)) {
    return at::mul(grad, mask.to(grad.scalar_type()));  // as ATen's node does
  }
  at::AutoDispatchBelowADInplaceOrView below;
  if (grad.requires_grad() || !is_owned_by_one(grad)) return call_masked_mul(grad, mask);
  at::Tensor product = grad;
  call_masked_mul_(product, mask);
  return product;
}

bool needs_graph(const at::Tensor& t) {
  return at::GradMode::is_enabled() && t.requires_grad();
}

void attach_product(const at::Tensor& t, const at::Tensor& mask, at::Tensor& product) {
  if (!needs_graph(t)) return;
  auto node = make_node<ProductBackward>(static_cast<NodePtr*>(nullptr));
  node->set_next_edges(torch::autograd::collect_next_edges(mask, t));
  node->self_ = torch::autograd::SavedVariable(saved_mask(t, mask), /*is_output=*/false);
  node->self_scalar_type = mask.scalar_type();
  node->other_scalar_type = t.scalar_type();
  torch::autograd::set_history(product, NodePtr(std::move(node)));
}

void attach_products(at::TensorList ts, at::TensorList masks, std::vector<at::Tensor>& products) {
  for (size_t i = 0; i < ts.size(); ++i) attach_product(ts[i], masks[i], products[i]);
}

NodePtr aten_product_node() {
  return make_node<MulBackward0>(static_cast<NodePtr*>(nullptr));
}

const std::type_info& product_node_type() {
  return typeid(ProductBackward);
}

}  // namespace fastprune::autograd
