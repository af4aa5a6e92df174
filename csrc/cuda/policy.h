// Every constant that a measurement should choose, and the measurement that
// did. The build may set them: the tests that run kernels on the host force
// small tiles and grids.
#pragma once

#include <cstdint>

// Threads of a block, for every kernel that streams. Not measured yet.
#ifndef FASTPRUNE_CUDA_THREADS
#define FASTPRUNE_CUDA_THREADS 256
#endif

// Entries of a tile: the unit in which tensors are dealt to blocks and ties are
// counted. Not measured yet.
#ifndef FASTPRUNE_CUDA_TILE
#define FASTPRUNE_CUDA_TILE 4096
#endif

// Blocks for each multiprocessor in a grid that strides over tiles. Not
// measured yet.
#ifndef FASTPRUNE_CUDA_BLOCKS_PER_SM
#define FASTPRUNE_CUDA_BLOCKS_PER_SM 8
#endif

// ---- topk_masks ----

// Threads of a block: phases that one block does alone want many. Not measured
// yet.
#ifndef FASTPRUNE_CUDA_TOPK_THREADS
#define FASTPRUNE_CUDA_TOPK_THREADS 512
#endif

// Blocks for each multiprocessor, and what the registers of a thread must leave
// room for. Not measured yet.
#ifndef FASTPRUNE_CUDA_TOPK_BLOCKS_PER_SM
#define FASTPRUNE_CUDA_TOPK_BLOCKS_PER_SM 2
#endif

// Bits of a histogram's digit: 2^11 four-byte bins are 8 KiB of shared memory.
// Not measured yet.
#ifndef FASTPRUNE_CUDA_DIGIT_BITS
#define FASTPRUNE_CUDA_DIGIT_BITS 11
#endif

// Keys of a sample, or candidates, that a thread has under way: what one block does alone waits for
// the cache, about a third of a microsecond each time. Not measured yet.
#ifndef FASTPRUNE_CUDA_TOPK_KEYS
#define FASTPRUNE_CUDA_TOPK_KEYS 8
#endif

// Entries up to which one block does everything in one launch. Not measured
// yet.
#ifndef FASTPRUNE_CUDA_TOPK_SMALL
#define FASTPRUNE_CUDA_TOPK_SMALL (1 << 15)
#endif

// Entries up to which the sweep's last block does all between sweep and fix.
// Not measured yet.
#ifndef FASTPRUNE_CUDA_TOPK_MEDIUM
#define FASTPRUNE_CUDA_TOPK_MEDIUM (1 << 20)
#endif

// Keys of a sample: one for so many entries, between these two. One block ranks
// the sample, so a larger one takes longer there; a smaller one leaves more
// entries undecided: 2.2% of the input at 2^15 keys, 1.1% at 2^17. Not measured
// yet.
#ifndef FASTPRUNE_CUDA_SAMPLE_SHARE
#define FASTPRUNE_CUDA_SAMPLE_SHARE 128
#endif
#ifndef FASTPRUNE_CUDA_SAMPLE_LEAST
#define FASTPRUNE_CUDA_SAMPLE_LEAST (1 << 12)
#endif
#ifndef FASTPRUNE_CUDA_SAMPLE_MOST
#define FASTPRUNE_CUDA_SAMPLE_MOST (1 << 15)
#endif

// ---- channels ----

// Loads that a thread of channel_norms has under way. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_LOADS
#define FASTPRUNE_CUDA_NORM_LOADS 8
#endif

// Threads for each multiprocessor from which channel_norms loads packs: with
// fewer, a chunk is better off with more threads that load an entry each. Not
// measured yet.
#ifndef FASTPRUNE_CUDA_NORM_FILL
#define FASTPRUNE_CUDA_NORM_FILL 128
#endif

// Blocks for a hundred multiprocessors from which a block of channel_norms
// keeps its channels to itself, however long they are. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_OWNERS_PERCENT
#define FASTPRUNE_CUDA_NORM_OWNERS_PERCENT 75
#endif

// Norms of chunks that a block stages before it adds them up. Not measured yet.
#ifndef FASTPRUNE_CUDA_NORM_STAGED
#define FASTPRUNE_CUDA_NORM_STAGED 1024
#endif

// Channels up to which every block of channel_mask selects for itself rather
// than wait for a launch that does it once. Not measured yet.
#ifndef FASTPRUNE_CUDA_SELECT_BY_ALL
#define FASTPRUNE_CUDA_SELECT_BY_ALL 8192
#endif

// Blocks of channel_mask for each multiprocessor: each selects. Not measured
// yet.
#ifndef FASTPRUNE_CUDA_SELECTORS_PER_SM
#define FASTPRUNE_CUDA_SELECTORS_PER_SM 4
#endif

namespace fastprune::cuda {

constexpr int kThreads = FASTPRUNE_CUDA_THREADS;
constexpr int kTile = FASTPRUNE_CUDA_TILE;
constexpr int kBlocksPerMultiprocessor = FASTPRUNE_CUDA_BLOCKS_PER_SM;

constexpr int kTopkThreads = FASTPRUNE_CUDA_TOPK_THREADS;
constexpr int kTopkBlocksPerMultiprocessor = FASTPRUNE_CUDA_TOPK_BLOCKS_PER_SM;
constexpr int kTopkKeys = FASTPRUNE_CUDA_TOPK_KEYS;
constexpr int kDigitBits = FASTPRUNE_CUDA_DIGIT_BITS;
constexpr int64_t kTopkSmall = FASTPRUNE_CUDA_TOPK_SMALL;
constexpr int64_t kTopkMedium = FASTPRUNE_CUDA_TOPK_MEDIUM;
constexpr int64_t kSampleShare = FASTPRUNE_CUDA_SAMPLE_SHARE;
constexpr int64_t kSampleLeast = FASTPRUNE_CUDA_SAMPLE_LEAST;
constexpr int64_t kSampleMost = FASTPRUNE_CUDA_SAMPLE_MOST;

// Half the width of the bracket in standard deviations of the threshold's rank
// in the sample: 6 of 100,000 brackets miss. A miss costs about one more
// selection. Not measured yet.
constexpr double kSampleSigmas = 4.0;

// Room for so many times the undecided entries that are expected at most. Not
// measured yet.
constexpr double kCandidateRoom = 1.4;

constexpr int kNormLoads = FASTPRUNE_CUDA_NORM_LOADS;
constexpr int kNormFill = FASTPRUNE_CUDA_NORM_FILL;
constexpr int kNormOwnersPercent = FASTPRUNE_CUDA_NORM_OWNERS_PERCENT;
constexpr int kNormStaged = FASTPRUNE_CUDA_NORM_STAGED;
constexpr int kSelectByAll = FASTPRUNE_CUDA_SELECT_BY_ALL;
constexpr int kSelectorsPerMultiprocessor = FASTPRUNE_CUDA_SELECTORS_PER_SM;

static_assert(kTile % kThreads == 0, "a tile is a whole number of elements for each thread");
static_assert(kTile % kTopkThreads == 0, "a tile is a whole number of elements for each thread");
static_assert(kTile < 1 << 16, "an offset in a tile, and a count of its entries, fit 16 bits");
static_assert(kThreads % 32 == 0 && kTopkThreads % 32 == 0, "whole warps");

}  // namespace fastprune::cuda
