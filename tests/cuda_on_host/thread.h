// Threads and warps as the scheduler sees them, the indices that kernels read, and Fault.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fiber.h"
#include "types.h"

namespace cuda_on_host {

// An error, where a GPU would report one, hang or give garbage. The message names kernel, block,
// thread and seed.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where an intrinsic was called: a default argument of all that can wait.
struct Site {
  const char* file = "";
  int line = 0;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  std::string text() const {
    const char* slash = std::strrchr(file, '/');
    return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
  }
};

inline bool operator==(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// Operands and result of a lane in the warp intrinsic that it waits in.
struct Lane {
  const char* kind = "";
  unsigned mask = 0;
  int source = 0;  // shuffles: the lane to read
  uint64_t in = 0;
  uint64_t out = 0;
};

struct Warp {
  unsigned present = 0;  // all lanes but those beyond the end of the block
  unsigned exited = 0;
  unsigned waiting = 0;
  Lane lanes[32];
};

struct Thread {
  enum State : uint8_t { kReady, kAtBarrier, kAtWarp, kExited };

  explicit Thread(unsigned linear) : fiber(linear), linear(linear) {}

  Fiber fiber;
  unsigned linear;  // x fastest, the order in which CUDA forms warps
  uint3 index{};
  State state = kReady;
  const char* kind = "";  // of the intrinsic it waits in
  Site site;
};

inline std::string text(const uint3& v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}
inline std::string hex(unsigned v) {
  char buffer[16];
  snprintf(buffer, sizeof buffer, "0x%08x", v);
  return buffer;
}

// One grid runs at a time, so CUDA's built-in variables are globals, set at every switch.
struct Indices {
  uint3 thread{}, block{};
  dim3 block_dim, grid_dim;
};
inline Indices indices;

}  // namespace cuda_on_host

inline const uint3& threadIdx = cuda_on_host::indices.thread;
inline const uint3& blockIdx = cuda_on_host::indices.block;
inline const dim3& blockDim = cuda_on_host::indices.block_dim;
inline const dim3& gridDim = cuda_on_host::indices.grid_dim;
