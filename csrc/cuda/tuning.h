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

namespace fastprune::cuda {

constexpr int kThreads = FASTPRUNE_CUDA_THREADS;
constexpr int kTile = FASTPRUNE_CUDA_TILE;
constexpr int kBlocksPerMultiprocessor = FASTPRUNE_CUDA_BLOCKS_PER_SM;
constexpr int kDigitBits = FASTPRUNE_CUDA_DIGIT_BITS;

static_assert(kTile % kThreads == 0, "a tile is a whole number of elements for each thread");
static_assert(kThreads % 32 == 0, "whole warps");

}  // namespace fastprune::cuda
