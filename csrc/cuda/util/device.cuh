// What kernels use beyond plain C++, for nvcc and for the CUDA emulator in tests/cuda_on_host. Free
// of torch headers.
#pragma once

#ifdef FASTPRUNE_CUDA_ON_HOST
#include "cuda_on_host.h"
// Declares a __shared__ variable. Each lambda has a type of its own, so each declaration gets a
// variable of its own.
#define FASTPRUNE_SHARED(Type, name) auto& name = cuda_on_host::static_shared<Type>([] {}, #name)
#define FASTPRUNE_NOINLINE __attribute__((noinline))
namespace fastprune::cuda {
using cuda_on_host::load;  // checks the alignment
using cuda_on_host::store;
}  // namespace fastprune::cuda
#else
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
namespace fastprune::cuda {
template <class T>
struct Shared {
  using type = T;
};
template <class T>
__device__ __forceinline__ T load(const T* p) {
  return *p;
}
template <class T>
__device__ __forceinline__ void store(T* p, const T& value) {
  *p = value;
}
}  // namespace fastprune::cuda
#define FASTPRUNE_NOINLINE __noinline__
#define FASTPRUNE_SHARED(Type, name) __shared__ typename ::fastprune::cuda::Shared<Type>::type name
#endif

#include "common/host_device.h"
#include "cuda/policy.h"

namespace fastprune::cuda {

template <class A, class B>
FASTPRUNE_HD constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

// The least number of blocks for a multiprocessor in __launch_bounds__ where registers should not
// be limited: without one, ptxas spills to fit more blocks.
constexpr int kOneBlock = 1;

// Loads what another block may have written in this launch, bypassing the multiprocessor's L1.
template <class T>
__device__ __forceinline__ T load_fresh(const T* p) {
  return __ldcg(p);
}

// The sum over a warp, in all of its lanes.
__device__ __forceinline__ unsigned warp_sum(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll
  for (int half = 16; half > 0; half /= 2) value += __shfl_xor_sync(0xffffffffu, value, half);
  return value;
#else
  return __reduce_add_sync(0xffffffffu, value);
#endif
}

// Whether this block is the last of `blocks` blocks to arrive; it sees the others' earlier writes.
// `arrived` is zero before the first block arrives and after the last.
__device__ __forceinline__ bool last_block_of(unsigned blocks, unsigned* arrived) {
  FASTPRUNE_SHARED(bool, last);
  __syncthreads();  // all threads of the block have written
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(arrived, blocks - 1) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The same for all blocks of the grid.
__device__ __forceinline__ bool last_block(unsigned* arrived) {
  return last_block_of(gridDim.x, arrived);
}

}  // namespace fastprune::cuda
