// The device "cuda" of a torch without CUDA: memory of the host. Loaded before torch, so that what
// stands here is found first.
#define HOST_DEVICE CUDA
#include "support/host_device.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  Allocator* getCUDADeviceAllocator() const override { return &host_device::memory; }
  void deviceSynchronize(DeviceIndex) const override {}
};

REGISTER_CUDA_HOOKS(CUDAHooks)

// What libtorch_cuda has.
namespace detail {

TensorBase empty_cuda(IntArrayRef size, ScalarType dtype, std::optional<Device>,
                      std::optional<c10::MemoryFormat> format) {
  return empty_generic(size, &host_device::memory, host_device::kKeys, dtype, format);
}

TensorBase empty_strided_cuda(IntArrayRef size, IntArrayRef stride, ScalarType dtype,
                              std::optional<Device>) {
  return empty_strided_generic(size, stride, &host_device::memory, host_device::kKeys, dtype);
}

}  // namespace detail

// Torch's own, behind this one, knows what torch was compiled with.
namespace accelerator {

std::optional<DeviceType> getAccelerator(bool) {
  return kCUDA;
}

}  // namespace accelerator
}  // namespace at
