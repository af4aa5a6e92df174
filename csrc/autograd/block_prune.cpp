// block_prune: the products are differentiable in ts, the masks carry no gradient.
#include <torch/library.h>

#include "autograd/prune_list.h"
#include "dispatch/calls.h"

namespace fastprune::autograd {
namespace {

TensorLists block_prune(at::TensorList units, const MaskList& masks, at::TensorList ts,
                        at::IntArrayRef block) {
  return prune_list(
      units, ts, [&] { return call_block_masks(units, masks, ts, block); },
      [&] { return call_block_prune(units, masks, ts, block); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, Autograd, m) {
  m.impl("block_prune", &block_prune);
}

}  // namespace fastprune::autograd
