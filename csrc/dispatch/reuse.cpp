#include "dispatch/reuse.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdint>
#include <vector>

#include "args/elementwise.h"
#include "autograd/product.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/util/fresh_pages.h"
#include "dispatch/owned.h"
#include "dispatch/plain.h"

namespace fastprune {
namespace {

bool is_held_once(PyObject* object) {
#ifdef Py_GIL_DISABLED
  return false;  // another thread may take a reference at any time
#else
  return Py_REFCNT(object) == 1;
#endif
}

bool can_hold_product(const at::Tensor& old, const at::Tensor& t) {
  return has_plain_keys(old.key_set()) && old.device() == t.device() &&
         old.scalar_type() == t.scalar_type() && old.sizes() == t.sizes() &&
         old.strides() == t.strides() && is_owned_by_one(old);
}

// Whether a grad_fn can be attached as the dispatcher would, without anyone else's code: hooks of
// saved tensors may look at the old product, or raise.
bool can_attach() {
  return at::SavedTensorDefaultHooks::get_tls_state().stack.empty() &&
         !c10::impl::tls_local_dispatch_key_set().excluded_.has(
             c10::DispatchKey::AutogradFunctionality);
}

}  // namespace

at::Tensor product_in_memory_of(PyObject* old, const at::Tensor& t, const at::Tensor& mask) {
  const bool is_large = static_cast<int64_t>(t.nbytes()) >= cpu::kFreshPagesFrom;
  if (!is_large || !t.is_cpu() || old == nullptr || !THPVariable_CheckExact(old) ||
      !is_held_once(old) || !can_hold_product(THPVariable_Unpack(old), t)) {
    return at::Tensor();
  }
  if (autograd::needs_graph(t) && (t.is_inference() || mask.is_inference() || !can_attach())) {
    return at::Tensor();
  }
  const at::Tensor factor = to_factor(mask, t.scalar_type());  // once, for the backward, too
  // A tensor of its own, without the old one's graph, hooks and version.
  at::Tensor product(THPVariable_Unpack(old).unsafeGetTensorImpl()->shallow_copy_and_detach(
      /*version_counter=*/0, /*allow_tensor_metadata_change=*/true));
  {
    RECORD_FUNCTION("fastprune::masked_mul", std::vector<c10::IValue>({t, mask}));
    cpu::masked_mul_out(t, factor, product);
  }
  autograd::attach_product(t, factor, product);
  return product;
}

}  // namespace fastprune
