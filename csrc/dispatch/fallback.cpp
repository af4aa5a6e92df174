// Where the dispatcher finds masked_mul as a composition of ATen's operators.
#include "dispatch/fallback.h"

#include <torch/library.h>

#include "dispatch/plain.h"

namespace fastprune {
namespace {

// For devices without kernels, and for meta tensors.
at::Tensor masked_mul_elsewhere(const at::Tensor& t, const at::Tensor& mask) {
  has_kernels(t.device().type());  // warns
  return aten_masked_mul(t, mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CompositeExplicitAutograd, m) {
  m.impl("masked_mul", &masked_mul_elsewhere);
  m.impl("masked_mul_", &aten_masked_mul_);
  m.impl("masked_muls", &aten_masked_muls);
  m.impl("masked_muls_", &aten_masked_muls_);
}

// What traces, batches or intercepts operators sees those of ATen.
#define FASTPRUNE_DECOMPOSE(key)                \
  TORCH_LIBRARY_IMPL(fastprune, key, m) {       \
    m.impl("masked_mul", &aten_masked_mul);     \
    m.impl("masked_mul_", &aten_masked_mul_);   \
    m.impl("masked_muls", &aten_masked_muls);   \
    m.impl("masked_muls_", &aten_masked_muls_); \
  }

FASTPRUNE_DECOMPOSE(Tracer)
FASTPRUNE_DECOMPOSE(FuncTorchBatched)
FASTPRUNE_DECOMPOSE(Functionalize)
FASTPRUNE_DECOMPOSE(PreDispatch)
FASTPRUNE_DECOMPOSE(Python)

}  // namespace fastprune
