// Where the stacks of threads are: for the race detector in one piece, as it skips accesses to
// them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace cuda_on_host::race {

#if defined(CUDA_ON_HOST_RACE)

void* map_stack(size_t bytes);
inline void unmap_stack(void*, size_t) {}  // they are kept until the process ends

#else

inline void* map_stack(size_t bytes) {
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  return map;
}
inline void unmap_stack(void* map, size_t bytes) {
  munmap(map, bytes);
}

#endif

}  // namespace cuda_on_host::race
