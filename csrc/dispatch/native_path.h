// What the Python layer asks before it takes the native path.
#pragma once

#include <Python.h>

namespace fastprune {

// is_plain and product_if_plain, for the module's table. Plain C functions: they run in every
// forward of every pruned module, and pybind11 would take as long as all they do.
PyMethodDef* native_path_functions();

}  // namespace fastprune
