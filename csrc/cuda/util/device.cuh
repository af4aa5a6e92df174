// What kernel code may use beyond plain C++, on a GPU and in the tests that play one on the host.
// Free of torch headers.
#pragma once

#ifdef FASTPRUNE_CUDA_ON_HOST
#include "cuda_on_host.h"
// A shared variable of the block. The lambda gives each place a type, so a variable, of its own.
#define FASTPRUNE_SHARED(Type, name) auto& name = cuda_on_host::static_shared<Type>([] {}, #name)
namespace fastprune::cuda {
using cuda_on_host::load;  // of any type, with its alignment checked
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
#define FASTPRUNE_SHARED(Type, name) __shared__ typename ::fastprune::cuda::Shared<Type>::type name
#endif

#include "common/host_device.h"
#include "cuda/policy.h"

namespace fastprune::cuda {

// What another block may have written in this launch: past the cache of this multiprocessor.
template <class T>
__device__ __forceinline__ T load_fresh(const T* p) {
  return __ldcg(p);
}

// Whether this block is the last of so many to come here, so that it sees what all others wrote
// before. `arrived` is zero before and after.
__device__ __forceinline__ bool last_block_of(unsigned blocks, unsigned* arrived) {
  FASTPRUNE_SHARED(bool, last);
  __syncthreads();  // the block has written all it will
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(arrived, blocks - 1) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The same of all blocks of the grid.
__device__ __forceinline__ bool last_block(unsigned* arrived) {
  return last_block_of(gridDim.x, arrived);
}

}  // namespace fastprune::cuda
