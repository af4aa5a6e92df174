// CUDA kernels on the host: compiles a .cu file with g++ (C++17) and runs its kernels, thread by
// thread, in the orders that a seed picks. For tests: it finds what depends on the order of
// threads or on uninitialised shared memory, and faults where a GPU would hang or give garbage.
//
//   cuda_on_host::run("name", &name_kernel<float>, grid, block, dynamic_bytes, args...)
//
// What it models:
// - Each thread is a fiber. One runs at a time until it comes to a barrier, a warp intrinsic, or
//   (one time in some) an atomic or a load()/store(); then any other that can run goes on.
// - Blocks run one after another, to their end, in a random order. A block that waits for another
//   one never ends here; on a GPU that is only safe where all blocks fit at once.
// - Shared memory is poisoned before each block and dies with it.
// - Faults: see Fault in thread.h; every rule is checked where it is written down.
//
// What it does not:
// - A plain `x[i] += 1` by two threads is never torn, as only the places above switch.
// - Memory is sequentially consistent: a missing __threadfence is not found.
// - A thread that spins on memory in a plain loop spins for ever.
// - __CUDA_ARCH__ is not defined; textures, cooperative groups, streams, half types, __shared__ and
//   __activemask are not there.
//
// Compile with -fno-strict-aliasing: kernels reinterpret memory as nvcc lets them.
#pragma once

#include "access.h"
#include "cub.h"
#include "machine.h"
#include "run.h"
#include "scalar.h"
#include "shared_memory.h"
#include "sync.h"
#include "thread.h"
#include "types.h"
