// What tests and the project's launch wrapper call: run(), set_seed(), launched().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "machine.h"

namespace cuda_on_host {

// Runs a grid on the calling thread. A Fault, or any other exception of a kernel's thread, is
// rethrown here; the other threads are then abandoned where they are.
template <class... P, class... Args>
void run(const char* kernel_name, void (*kernel)(P...), dim3 grid, dim3 block,
         size_t dynamic_shared_bytes, Args&&... args) {
  static_assert(sizeof...(P) == sizeof...(Args), "the kernel takes other arguments");
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel parameters are copied as bytes");
  static_assert((size_t{0} + ... + sizeof(P)) <= 32764, "kernel parameters: 32764 bytes at most");
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> parameters;
  };
  const Call call{kernel, std::tuple<P...>(static_cast<P>(args)...)};
  machine.launch(
      kernel_name,
      [](const void* p) {
        const Call& c = *static_cast<const Call*>(p);
        std::apply(c.kernel, c.parameters);
      },
      &call, grid, block, dynamic_shared_bytes);
}

// Thread order and poison of a launch follow from the seed and the number of launches since it was
// set. The initial seed is the environment variable CUDA_ON_HOST_SEED, else a constant.
inline void set_seed(uint64_t seed) {
  machine.set_seed(seed);
}

// The number of completed launches of each kernel, sorted by name.
inline std::vector<std::pair<std::string, size_t>> launched() {
  return machine.launched();
}

}  // namespace cuda_on_host
