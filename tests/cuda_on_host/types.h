// CUDA's keywords and vector types.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
// __restrict__ is built into g++. __shared__ is missing on purpose: see shared_memory.h. And
// __noinline__ is missing because libstdc++ uses __attribute__((__noinline__)).

// The alignments are CUDA's; a 128-bit load of a float4 that is not on 16 bytes faults there.
#define CUDA_ON_HOST_VECTORS(scalar, name, align2, align4)                   \
  struct __align__(align2) name##2 {                                         \
    scalar x, y;                                                             \
  };                                                                         \
  struct name##3 {                                                           \
    scalar x, y, z;                                                          \
  };                                                                         \
  struct __align__(align4) name##4 {                                         \
    scalar x, y, z, w;                                                       \
  };                                                                         \
  constexpr name##2 make_##name##2(scalar x, scalar y) {                     \
    return {x, y};                                                           \
  }                                                                          \
  constexpr name##3 make_##name##3(scalar x, scalar y, scalar z) {           \
    return {x, y, z};                                                        \
  }                                                                          \
  constexpr name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { \
    return {x, y, z, w};                                                     \
  }

CUDA_ON_HOST_VECTORS(signed char, char, 2, 4)
CUDA_ON_HOST_VECTORS(unsigned char, uchar, 2, 4)
CUDA_ON_HOST_VECTORS(short, short, 4, 8)
CUDA_ON_HOST_VECTORS(unsigned short, ushort, 4, 8)
CUDA_ON_HOST_VECTORS(int, int, 8, 16)
CUDA_ON_HOST_VECTORS(unsigned, uint, 8, 16)
CUDA_ON_HOST_VECTORS(long long, longlong, 16, 16)
CUDA_ON_HOST_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_ON_HOST_VECTORS(float, float, 8, 16)
CUDA_ON_HOST_VECTORS(double, double, 16, 16)
#undef CUDA_ON_HOST_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

inline constexpr int warpSize = 32;
