// Every constant that a measurement should choose, and the measurement that did. The build may set
// them: the tests that run kernels on the host force small tiles and grids.
#pragma once

// Threads of a block, for every kernel that streams. Not measured yet.
#ifndef FASTPRUNE_CUDA_THREADS
#define FASTPRUNE_CUDA_THREADS 256
#endif

// Entries of a tile: the unit in which tensors are dealt to blocks and ties are counted. Not
// measured yet.
#ifndef FASTPRUNE_CUDA_TILE
#define FASTPRUNE_CUDA_TILE 4096
#endif

// Blocks for each multiprocessor in a grid that strides over tiles. Not measured yet.
#ifndef FASTPRUNE_CUDA_BLOCKS_PER_SM
#define FASTPRUNE_CUDA_BLOCKS_PER_SM 8
#endif

// Bits of a histogram's digit: 2^11 four-byte bins are 8 KiB of shared memory. Not measured yet.
#ifndef FASTPRUNE_CUDA_DIGIT_BITS
#define FASTPRUNE_CUDA_DIGIT_BITS 11
#endif

// Loads that a thread of channel_norms has under way. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_LOADS
#define FASTPRUNE_CUDA_NORM_LOADS 8
#endif

// Threads for each multiprocessor from which channel_norms loads packs: with fewer, a chunk is
// better off with more threads that load an entry each. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_FILL
#define FASTPRUNE_CUDA_NORM_FILL 128
#endif

// Channels for each multiprocessor from which a block keeps a channel of any length to itself. Not
// measured yet.
#ifndef FASTPRUNE_CUDA_NORM_OWNERS
#define FASTPRUNE_CUDA_NORM_OWNERS 2
#endif

// Norms of chunks that a block stages before it adds them up. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_STAGED
#define FASTPRUNE_CUDA_NORM_STAGED 1024
#endif

// Channels up to which every block of channel_mask selects for itself rather than wait for a launch
// that does it once. Not measured yet.
#ifndef FASTPRUNE_CUDA_SELECT_BY_ALL
#define FASTPRUNE_CUDA_SELECT_BY_ALL 8192
#endif

// Blocks of channel_mask for each multiprocessor: each selects. Not measured yet.
#ifndef FASTPRUNE_CUDA_SELECTORS_PER_SM
#define FASTPRUNE_CUDA_SELECTORS_PER_SM 4
#endif

namespace fastprune::cuda {

constexpr int kThreads = FASTPRUNE_CUDA_THREADS;
constexpr int kTile = FASTPRUNE_CUDA_TILE;
constexpr int kBlocksPerMultiprocessor = FASTPRUNE_CUDA_BLOCKS_PER_SM;
constexpr int kDigitBits = FASTPRUNE_CUDA_DIGIT_BITS;
constexpr int kNormLoads = FASTPRUNE_CUDA_NORM_LOADS;
constexpr int kNormFill = FASTPRUNE_CUDA_NORM_FILL;
constexpr int kNormOwners = FASTPRUNE_CUDA_NORM_OWNERS;
constexpr int kNormStaged = FASTPRUNE_CUDA_NORM_STAGED;
constexpr int kSelectByAll = FASTPRUNE_CUDA_SELECT_BY_ALL;
constexpr int kSelectorsPerMultiprocessor = FASTPRUNE_CUDA_SELECTORS_PER_SM;

static_assert(kTile % kThreads == 0, "a tile is a whole number of elements for each thread");
static_assert(kThreads % 32 == 0, "whole warps");

}  // namespace fastprune::cuda
