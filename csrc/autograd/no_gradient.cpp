// Masks and norms carry no gradient, whatever their inputs require.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace fastprune::autograd {
namespace {

void no_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                 torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  for (const char* op : {"topk_masks", "topk_part", "nm_masks", "row_masks", "block_norms",
                         "block_masks", "channel_norms", "channel_mask", "combine_masks"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&no_gradient>());
  }
}

}  // namespace fastprune::autograd
