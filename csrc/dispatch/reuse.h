// The memory of a module's last product, for its next one: fresh memory is most of the time that a
// large product takes on the CPU (cpu/util/fresh_pages.h).
#pragma once

#include <Python.h>

#include <ATen/core/Tensor.h>

namespace fastprune {

// masked_mul of a plain pair with the same strides, in the memory of `old`, the last product.
// Undefined if that is too small to gain, does not fit, or if anything else could see it change: a
// reference, a view, a graph. `old` is borrowed from its only owner, or null. The caller holds the
// GIL, and this does not release it: another thread could take a reference meanwhile.
at::Tensor product_in_memory_of(PyObject* old, const at::Tensor& t, const at::Tensor& mask);

}  // namespace fastprune
