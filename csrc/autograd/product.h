// Gradients of products mask * t that an operator has computed.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>  // Edge, and the nodes that it holds

#include <typeinfo>
#include <vector>

namespace fastprune::autograd {

// The gradient of t in masked_mul(t, mask): grad * mask, itself differentiable. Undefined if grad
// is: weight decay treats a gradient of zeros otherwise than none.
at::Tensor masked_mul_backward(const at::Tensor& grad, const at::Tensor& mask);

// Whether the product of t gets a grad_fn.
bool needs_graph(const at::Tensor& t);

// Attaches a grad_fn to a product that an op computed, if it gets one.
void attach_product(const at::Tensor& t, const at::Tensor& mask, at::Tensor& product);

// The same for lists; each product can run backward alone.
void attach_products(at::TensorList ts, at::TensorList masks, std::vector<at::Tensor>& products);

// Edges hold nodes by this: std::shared_ptr, or in newer releases of torch an intrusive one.
using NodePtr = decltype(torch::autograd::Edge::function);

// An empty node of ATen's product, and the type of ours, which derives from its type.
NodePtr aten_product_node();
const std::type_info& product_node_type();

}  // namespace fastprune::autograd
