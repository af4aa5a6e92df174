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

#include "../selection.h"
#include "tuning.h"
