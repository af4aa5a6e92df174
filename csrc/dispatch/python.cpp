#include "dispatch/python.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <pybind11/gil_safe_call_once.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>

#include <utility>

#include "autograd/product.h"
#include "common/dtypes.h"
#include "dispatch/calls.h"
#include "dispatch/plain.h"
#include "dispatch/reuse.h"

namespace fastprune {
namespace {

// The mode that torch.set_default_device() and `with torch.device(...)` turn on.
PyObject* device_context() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> type;
  return type
      .call_once_and_store_result(
          [] { return py::module_::import("torch.utils._device").attr("DeviceContext"); })
      .get_stored()
      .ptr();
}

// Whether a TorchFunctionMode is on, which may redefine any operation. One that says where
// factories allocate redefines none that the kernels stand for.
bool operations_may_be_redefined() {
  using TLS = at::impl::PythonTorchFunctionTLS;
  if (!at::impl::torch_function_mode_enabled()) return false;
  for (int64_t i = 0; i < TLS::stack_len(); ++i) {
    const py::handle mode = TLS::get_stack_at(i)->ptr(getPyInterpreter());
    if (py::type::handle_of(mode).ptr() != device_context()) return true;
  }
  return false;
}

// A Tensor or Parameter itself: a subclass may redefine any operation, too.
bool is_exact(PyObject* object) {
  return THPVariable_CheckExact(object);
}

bool is_plain_object(PyObject* object, bool (*is)(const at::Tensor&)) {
  return is_exact(object) && is(THPVariable_Unpack(object));
}

bool is_plain_float(const at::Tensor& t) {
  return is_plain(t) && t.layout() == at::kStrided && is_native_float(t.scalar_type());
}

bool is_plain_old_mask(const at::Tensor& mask) {
  return is_plain_mask(mask) && mask.layout() == at::kStrided && is_mask_dtype(mask.scalar_type());
}

PyObject* py_is_plain(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  bool plain = !operations_may_be_redefined();
  if (plain && count > 0 && args[0] != Py_None) {
    plain = is_plain_object(args[0], is_plain_old_mask);
  }
  const at::Tensor* first = nullptr;  // all must have its shape and device
  for (Py_ssize_t i = 0; plain && i < count; ++i) {
    if (i > 0) plain = is_plain_object(args[i], is_plain_float);
    if (!plain || args[i] == Py_None) continue;
    const at::Tensor& t = THPVariable_Unpack(args[i]);
    if (first == nullptr) first = &t;
    plain = t.sizes() == first->sizes() && t.device() == first->device();
  }
  return PyBool_FromLong(plain);
  END_HANDLE_TH_ERRORS
}

// Whether their product is the kernel's, and has the layout that ATen's would have.
bool is_plain_product(PyObject* t_object, PyObject* mask_object) {
  if (!is_exact(t_object) || !is_exact(mask_object) || operations_may_be_redefined()) {
    return false;
  }
  const at::Tensor& t = THPVariable_Unpack(t_object);
  const at::Tensor& mask = THPVariable_Unpack(mask_object);
  if (!is_plain_pair(t, mask)) return false;
  // ATen's product has the layout of the mask, ours that of t, and a matrix product rounds
  // differently for another layout.
  return t.strides() == mask.strides();
}

PyObject* py_product_if_plain(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2 || count == 4,
                   "product_if_plain(): expected t, mask and perhaps attributes and name, got ",
                   count, " arguments");
  if (!is_plain_product(args[0], args[1])) Py_RETURN_NONE;
  const at::Tensor& t = THPVariable_Unpack(args[0]);
  const at::Tensor& mask = THPVariable_Unpack(args[1]);
  at::Tensor product;
  if (count == 4) product = product_in_memory_of(PyDict_GetItem(args[2], args[3]), t, mask);
  if (!product.defined()) {
    pybind11::gil_scoped_release no_gil;
    product = call_masked_mul(t, mask);
  }
  return THPVariable_Wrap(std::move(product));
  END_HANDLE_TH_ERRORS
}

}  // namespace

void register_product_nodes() {
  const THPObjectPtr aten(torch::autograd::functionToPyObject(autograd::aten_product_node()));
  torch::autograd::registerCppFunction(autograd::product_node_type(), Py_TYPE(aten.get()));
}

PyMethodDef* python_functions() {
  static PyMethodDef functions[] = {
      {"is_plain", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&py_is_plain)),
       METH_FASTCALL,
       "is_plain(mask, *tensors): whether the native operators take a mask (or None) and tensors "
       "of one shape as they are."},
      {"product_if_plain",
       reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&py_product_if_plain)),
       METH_FASTCALL,
       "product_if_plain(t, mask, attributes, name): torch.ops.fastprune.masked_mul of plain "
       "tensors, otherwise None. A large product takes the memory of attributes[name], where "
       "nothing else holds it; attributes and name may be left out."},
      {nullptr, nullptr, 0, nullptr}};
  return functions;
}

}  // namespace fastprune
