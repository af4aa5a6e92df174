// Which accesses a thread knows of, and so comes after: happens-before by CUDA's rules.
//
// Each thread has a clock. A barrier raises the clocks of a block to one new number, the block's
// floor. An access is known to a thread
//   of its block: if its clock is under the floor, or (in its warp) up to what a __syncwarp
//   brought; of any block: if it is in what fence - atomic - atomic - fence brought.
// Shuffles, votes and matches order nothing: the CUDA C++ Programming Guide gives a memory barrier
// to
// __syncwarp alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

namespace cuda_on_host::race {

using Clock = uint32_t;

struct OfBlock {
  Clock floor = 0;                  // all accesses with a clock under it are known
  std::map<uint32_t, Clock> up_to;  // of a thread: those up to this clock
};

// Shared and never changed once made.
struct Knowledge {
  std::map<uint32_t, OfBlock> blocks;
};
using Known = std::shared_ptr<const Knowledge>;

inline Known join(const Known& a, const Known& b) {
  if (!b || a == b) return a;
  if (!a) return b;
  auto both = std::make_shared<Knowledge>(*a);
  for (const auto& [block, theirs] : b->blocks) {
    OfBlock& ours = both->blocks[block];
    ours.floor = std::max(ours.floor, theirs.floor);
    for (const auto& [thread, clock] : theirs.up_to) {
      ours.up_to[thread] = std::max(ours.up_to[thread], clock);
    }
  }
  return both;
}

// A thread of the running block.
struct Observer {
  uint32_t linear;  // in its block
  uint32_t lane;
  uint32_t warp;  // in the launch
  Clock clock;
  Clock lanes[32];  // clocks of its warp that a __syncwarp brought
  Known known;
  Known released[2];  // by Scope: what its last fence of at least that scope lets others know
  Known pending[2];   // by Scope: what atomics brought, for its next fence
};

// What an atomic variable carries from fences before an atomic to fences after another.
struct Carried {
  Known device;
  std::map<uint32_t, Known> block;  // from block-scope fences, for the same block
};

}  // namespace cuda_on_host::race
