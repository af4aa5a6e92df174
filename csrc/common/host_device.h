// For functions that the host, the device and the tests share.
#pragma once

#if defined(__CUDACC__)
#define FASTPRUNE_HD __host__ __device__ __forceinline__
#else
#define FASTPRUNE_HD inline
#endif
