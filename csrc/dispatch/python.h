// What the Python layer calls without the cost of an OpOverload.
#pragma once

#include <Python.h>

namespace fastprune {

// is_plain and product_if_plain, for the module's method table. Plain C functions: they run in
// every forward of every pruned module, and pybind11's call would take as long as their work.
PyMethodDef* python_functions();

// Has Python take the grad_fn of our products for one of ATen's. Once, when the module is imported.
void register_product_nodes();

}  // namespace fastprune
