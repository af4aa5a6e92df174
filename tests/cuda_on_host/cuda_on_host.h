// A CUDA emulator for the host: g++ (C++17) compiles .cu files with it, and their kernels run
// thread by thread in a random order that follows from a seed. For tests: it finds dependence on
// the order of threads and on uninitialised shared memory, and faults where a GPU would hang or
// give garbage.
//
//   cuda_on_host::run("name", &name_kernel<float>, grid, block, dynamic_bytes, args...)
//
// What it emulates:
// - Each thread is a fiber. It runs until it reaches a barrier, a warp intrinsic or, at random, an
//   atomic or a load()/store(); then another one that can run goes on.
// - Blocks run one after another, to their end, in random order. A block that waits for another one
//   never ends; on a GPU that is safe only where all blocks are resident at once.
// - Shared memory is poisoned before each block and freed after it.
// - Faults: see Fault in thread.h. Each rule is checked where it is documented.
//
// What it does not:
// - A plain `x[i] += 1` by two threads is never torn, as threads switch only at the places above,
// and
//   memory is sequentially consistent. Missing barriers and fences that change no result for these
//   reasons are found by the race detector (race/), in a build of its own.
// - A thread that polls memory in a plain loop never ends.
// - __CUDA_ARCH__, textures, cooperative groups, streams, half types, __shared__ and __activemask
//   are missing.
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
