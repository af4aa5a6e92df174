// A device that torch does not know, and fastprune has no kernels for.
#define HOST_DEVICE PrivateUse1
#include "support/host_device.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>

namespace {

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

}  // namespace
