// Tells the race detector of global memory that kernels are to write: what args/fresh.h allocates,
// until the host or a kernel writes it. The linker has calls of these functions of torch's, from
// csrc, come here (--wrap, build.py).
#include <ATen/EmptyTensor.h>
#include <ATen/ops/copy.h>
#include <ATen/ops/zero.h>

#include "race/hooks.h"

// Declares a function of torch's as torch_NAME and what stands in front of it as NAME.
#define IN_FRONT_OF(Result, name, parameters, symbol)       \
  Result torch_##name parameters __asm__("__real_" symbol); \
  Result name parameters __asm__("__wrap_" symbol)

namespace cuda_on_host::race {

using at::IntArrayRef, at::ScalarType, at::Tensor, at::TensorBase;

IN_FRONT_OF(TensorBase, empty,
            (IntArrayRef sizes, ScalarType dtype, bool pinned, std::optional<at::MemoryFormat> f),
            "_ZN2at6detail9empty_cpuEN3c108ArrayRefIlEENS1_10ScalarTypeEbSt8optionalINS1_"
            "12MemoryFormatEE");
IN_FRONT_OF(TensorBase, empty_strided,
            (IntArrayRef sizes, IntArrayRef strides, ScalarType dtype, bool pinned),
            "_ZN2at6detail17empty_strided_cpuEN3c108ArrayRefIlEES3_NS1_10ScalarTypeEb");
IN_FRONT_OF(Tensor&, zero_, (Tensor & t), "_ZN2at4_ops5zero_4callERNS_6TensorE");
IN_FRONT_OF(Tensor&, copy_, (Tensor & t, const Tensor& from, bool non_blocking),
            "_ZN2at4_ops5copy_4callERNS_6TensorERKS2_b");

namespace {

// Memory of torch's, which the detector forgets when it is freed.
struct Fresh {
  at::DataPtr memory;
  ~Fresh() { released(memory.get()); }
};

TensorBase nobody_wrote(TensorBase t) {
  c10::StorageImpl& storage = *t.storage().unsafeGetStorageImpl();
  void* const data = storage.mutable_data();
  allocated(data, storage.nbytes());
  auto* fresh = new Fresh{storage.set_data_ptr(at::DataPtr())};
  storage.set_data_ptr_noswap(at::DataPtr(
      data, fresh, [](void* it) { delete static_cast<Fresh*>(it); }, fresh->memory.device()));
  return t;
}

Tensor& host_wrote(Tensor& t) {
  if (t.is_non_overlapping_and_dense()) written(t.const_data_ptr(), t.nbytes());
  return t;
}

}  // namespace

TensorBase empty(IntArrayRef sizes, ScalarType dtype, bool pinned,
                 std::optional<at::MemoryFormat> f) {
  return nobody_wrote(torch_empty(sizes, dtype, pinned, f));
}
TensorBase empty_strided(IntArrayRef sizes, IntArrayRef strides, ScalarType dtype, bool pinned) {
  return nobody_wrote(torch_empty_strided(sizes, strides, dtype, pinned));
}
Tensor& zero_(Tensor& t) {
  return host_wrote(torch_zero_(t));
}
Tensor& copy_(Tensor& t, const Tensor& from, bool non_blocking) {
  return host_wrote(torch_copy_(t, from, non_blocking));
}

}  // namespace cuda_on_host::race
