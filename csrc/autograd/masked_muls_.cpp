// masked_muls_: plain tensors go to the kernels, all others, and those through which a gradient
// flows, to ATen's mul_ and masked_fill_, one by one.
#include <ATen/MemoryOverlap.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <vector>

#include "args/masked_pairs.h"
#include "dispatch/calls.h"
#include "dispatch/fallback.h"
#include "dispatch/plain.h"

namespace fastprune {
namespace {

// Everything is checked before anything is changed.
void masked_muls_autograd(at::TensorList ts, at::TensorList masks) {
  check_masked_muls_(ts, masks);
  std::vector<at::Tensor> native_ts;
  std::vector<at::Tensor> native_masks;
  std::vector<size_t> others;
  for (size_t i = 0; i < ts.size(); ++i) {
    const bool with_grad =
        at::GradMode::is_enabled() && (ts[i].requires_grad() || masks[i].requires_grad());
    torch::autograd::check_inplace(ts[i], with_grad);
    const bool plain = is_plain(ts[i]);
    if (plain) at::assert_no_internal_overlap(ts[i]);
    if (plain && !with_grad && is_plain(masks[i]) && is_native_masked_pair(ts[i], masks[i])) {
      native_ts.push_back(ts[i]);
      native_masks.push_back(masks[i]);
    } else {
      others.push_back(i);
    }
  }
  if (!native_ts.empty()) {
    at::AutoDispatchBelowAutograd below;
    call_masked_muls_(native_ts, native_masks);
  }
  for (const size_t i : others) aten_apply_mask_(ts[i], masks[i]);
}

// Below Autograd, so that inference mode, which skips that, counts versions too.
void masked_muls_versions(at::TensorList ts, at::TensorList masks) {
  for (const at::Tensor& t : ts) {
    TORCH_CHECK(!t.is_inference() || c10::InferenceMode::is_enabled(),
                "Inplace update to inference tensor outside InferenceMode is not allowed");
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    call_masked_muls_(ts, masks);
  }
  for (const at::Tensor& t : ts) torch::autograd::increment_version(t);  // for graphs that saved it
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("masked_muls_", &masked_muls_autograd);
}

TORCH_LIBRARY_IMPL(fastprune, ADInplaceOrView, m) {
  m.impl("masked_muls_", &masked_muls_versions);
}

}  // namespace fastprune
