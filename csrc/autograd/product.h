// Gradients of products mask * t that an operator has computed.
#pragma once

#include <ATen/core/Tensor.h>

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

// Has Python take such a grad_fn for one of ATen's. Once, when the module is imported.
void register_python_type();

}  // namespace fastprune::autograd
