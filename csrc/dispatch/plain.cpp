#include "dispatch/plain.h"

#include <c10/util/Exception.h>

#include <array>
#include <atomic>

namespace fastprune {

bool has_kernels(c10::DeviceType device) {
  if (device == c10::kCPU || device == c10::kCUDA || device == c10::kMeta) return true;
  static std::array<std::atomic<bool>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> warned{};
  if (!warned[static_cast<size_t>(device)].exchange(true)) {
    TORCH_WARN("fastprune has no kernels for tensors on '",
               c10::DeviceTypeName(device, /*lower_case=*/true),
               "': it prunes them as torch.nn.utils.prune does, and no faster.");
  }
  return false;
}

}  // namespace fastprune
