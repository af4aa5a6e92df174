// Which tensors the kernels take: plain ones. All others (subclasses, functorch, forward AD,
// tracing, modes, other devices and layouts) take the path of torch.nn.utils.prune, so that the
// result is the same.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "dispatch/fallback.h"

namespace fastprune {

// Whether fastprune has kernels for the type of device; for meta tensors these are fake. Warns once
// for each type that has none.
bool has_kernels(c10::DeviceType device);

// Whether the set holds only what every strided tensor carries.
inline bool has_plain_keys(c10::DispatchKeySet keys) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet plain(
      {DispatchKey::Dense, DispatchKey::BackendSelect, DispatchKey::ADInplaceOrView,
       DispatchKey::AutogradFunctionality, DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA});
  // The lowest bits name backends, which has_kernels looks at.
  return (keys - plain).raw_repr() >> c10::num_backends == 0;
}

// An ordinary tensor on a device with kernels, outside of every mode and transform.
inline bool is_plain(const at::Tensor& t) {
  return has_kernels(t.device().type()) &&
         has_plain_keys(t.key_set() | c10::impl::tls_local_dispatch_key_set().included_) &&
         !t._fw_grad(/*level=*/0).defined();
}

// The kernels give the mask no gradient, so it may not require one.
inline bool is_plain_mask(const at::Tensor& mask) {
  return !mask.requires_grad() && is_plain(mask);
}

// Whether masked_mul(t, mask) is a kernel's.
inline bool is_plain_pair(const at::Tensor& t, const at::Tensor& mask) {
  return is_plain(t) && is_plain_mask(mask) && is_native_pair(t, mask);
}

}  // namespace fastprune
