// A device of torch's that is memory of the host: every operator of ATen by way of the CPU. Define
// HOST_DEVICE as its type, PrivateUse1 or CUDA, before this is included, by one file of a library.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace host_device {

using at::Tensor;

constexpr c10::DeviceType kType = c10::DeviceType::HOST_DEVICE;
constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::HOST_DEVICE);

struct Memory final : c10::Allocator {
  // Aligned as a GPU's, and full of what no test expects.
  c10::DataPtr allocate(size_t bytes) override {
    constexpr size_t kAlignment = 512;
    const size_t whole = (bytes / kAlignment + 1) * kAlignment;
    void* data = std::aligned_alloc(kAlignment, whole);
    std::memset(data, 0xa5, whole);
    return {data, data, &std::free, c10::Device(kType, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

inline Memory memory;

// There is one stream, in order: events have nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Device device() { return {kType, 0}; }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, device()); }
  c10::DeviceType type() const override { return kType; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
};

C10_REGISTER_GUARD_IMPL(HOST_DEVICE, Guard)

inline Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
                    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                    std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, kKeys,
                                   c10::dtype_or_default(dtype), format);
}

inline Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                            std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                            std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), &memory, kKeys,
                                           c10::dtype_or_default(dtype));
}

// The same memory as a tensor of the CPU.
inline Tensor on_host(const Tensor& t) {
  if (t.is_cpu()) return t;
  const auto options = t.options().device(at::kCPU).requires_grad(false);
  Tensor here = at::from_blob(t.data_ptr(), t.sizes(), t.strides(), options);
  here._set_conj(t.is_conj());
  here._set_neg(t.is_neg());
  return here;
}

inline Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  at::NoGradGuard no_grad;
  on_host(to).copy_(on_host(from));
  return to;
}

inline Tensor& copy_(Tensor& to, const Tensor& from, bool) {
  if (!to.is_meta()) copy_from(from, to, false);
  return to;
}

inline Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) {
    const Tensor resized = at::empty(from.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(resized.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
  }
  return copy_from(from, to, false);
}

inline Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                         std::optional<c10::SymInt> offset) {
  Tensor view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset.has_value() ? offset->expect_int() : self.storage_offset());
  return view;
}

inline Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size,
                            c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, std::nullopt);
}

inline Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  const auto wanted = at::infer_size_dv(C10_AS_INTARRAYREF_SLOW(size), self.numel());
  const auto stride = at::detail::computeStride(self.sizes(), self.strides(), wanted);
  TORCH_CHECK(stride.has_value(), "view size is not compatible with input tensor's strides");
  return as_strided(self, c10::fromIntArrayRefSlow(wanted), c10::fromIntArrayRefSlow(*stride),
                    std::nullopt);
}

inline Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) {
  const Tensor here = on_host(self).unfold(dim, size, step);
  return as_strided(self, c10::fromIntArrayRefSlow(here.sizes()),
                    c10::fromIntArrayRefSlow(here.strides()), std::nullopt);
}

inline const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef size,
                             std::optional<at::MemoryFormat> format) {
  const auto options = self.options().memory_format(format.value_or(at::MemoryFormat::Contiguous));
  const Tensor fresh = at::empty(C10_AS_INTARRAYREF_SLOW(size), options);
  if (fresh.storage().nbytes() > self.storage().nbytes()) {
    std::memcpy(fresh.storage().mutable_data(), self.storage().data(), self.storage().nbytes());
    self.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
  }
  self.unsafeGetTensorImpl()->set_sizes_and_strides(fresh.sizes(), fresh.strides());
  return self;
}

inline Tensor& set_(Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                    c10::SymIntArrayRef stride) {
  c10::TensorImpl* const impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  if (stride.data() != nullptr) {
    impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  }
  impl->set_storage_offset(offset.expect_int());
  return self;
}

inline Tensor& set_whole(Tensor& self, at::Storage source) {
  const auto entries = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_(self, std::move(source), 0, {entries}, {});
}

inline Tensor& set_as(Tensor& self, const Tensor& source) {
  return set_(self, source.storage(), source.storage_offset(), source.sym_sizes(),
              source.sym_strides());
}

inline void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, HOST_DEVICE, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}

TORCH_LIBRARY_IMPL(aten, HOST_DEVICE, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("view", &view);
  m.impl("unfold", &unfold);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage_storage_offset", &set_);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_as);
}

}  // namespace host_device
