// Tuning policies: the constants that a measurement should choose, one struct for each family of
// operators. Each value is an estimate, as no measurement on a GPU has compared two yet. All
// architectures share them until measurements differ; then a family gets a struct for each
// architecture, as in CUB's tuning policies.
//
// The tests replace this file through the include path: tests/cuda_on_host/policy_small has one
// with small sizes, so that small inputs take the paths of large ones.
#pragma once

#include <cstdint>

namespace fastprune::cuda {

// Entries of a tile, for every family: the unit in which tensors are dealt to blocks and ties are
// counted.
constexpr int kTile = 4096;

// masked_mul, masked_mul_, masked_muls, combine_masks.
struct ElementwisePolicy {
  static constexpr int kThreads = 256;
};

// channel_norms, channel_mask, channel_prune.
struct ChannelsPolicy {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerMultiprocessor = 8;

  // Bits of a histogram's digit: 2^11 four-byte bins are 8 KiB of shared memory.
  static constexpr int kDigitBits = 11;

  // Loads that a thread of channel_norms has in flight while it adds as many others.
  static constexpr int kNormLoads = 4;

  // channel_norms loads vectors if that leaves this many threads for each multiprocessor. With
  // fewer, a chunk is better read by more threads that load one entry each.
  static constexpr int kNormFill = 128;

  // A block of channel_norms keeps its channels to itself, however long they are, if there are at
  // least this many blocks for a hundred multiprocessors.
  static constexpr int kNormOwnersPercent = 75;

  // Norms of chunks that a block stages in shared memory before it adds them up.
  static constexpr int kNormStaged = 1024;

  // Up to this many channels, every block of channel_mask repeats the selection; of more, a launch
  // of its own selects once.
  static constexpr int kSelectByAll = 8192;

  // Blocks of channel_mask for each multiprocessor: fewer than elsewhere, as each one selects.
  static constexpr int kSelectorsPerMultiprocessor = 4;
};

// topk_masks, topk_prune, topk_part, row_masks, row_prune.
struct TopkPolicy {
  // Many, for the phases that a single block does.
  static constexpr int kThreads = 512;

  // Also limits the registers of a thread.
  static constexpr int kBlocksPerMultiprocessor = 2;
  static constexpr int kSampleBlocksPerMultiprocessor = 8;

  // Bits of a histogram's digit: 2^11 four-byte bins are 8 KiB of shared memory.
  static constexpr int kDigitBits = 11;

  // Keys of the sample, or candidates, that a thread has in flight. A single block waits for the
  // cache about a third of a microsecond each time.
  static constexpr int kKeysInFlight = 8;

  // Up to this many entries, one block does everything in one launch.
  static constexpr int64_t kSmall = int64_t{1} << 15;

  // Of a list with an amount for each tensor, one block selects from a tensor of up to this many
  // entries, beside the blocks of the others.
  static constexpr int64_t kEach = int64_t{1} << 17;

  // Up to this many entries, the last block of the sweep does everything between sweep and fixup.
  static constexpr int64_t kMedium = int64_t{1} << 20;

  // The sample has one key for every kSampleShare entries, at least kSampleLeast and at most
  // kSampleMost. One block ranks it, by arithmetic in about a nanosecond a key, and a smaller one
  // leaves more candidates, which cost about 10 ps each: 4.5% of the input at 2^13 keys, 1.6% at
  // 2^16.
  static constexpr int64_t kSampleShare = 4096;
  static constexpr int64_t kSampleLeast = int64_t{1} << 13;
  static constexpr int64_t kSampleMost = int64_t{1} << 16;

  // Half the width of the bracket, in standard deviations of the threshold's rank in the sample:
  // 6 of 100,000 brackets miss. A miss costs about one more selection.
  static constexpr double kSampleSigmas = 4.0;

  // Room for candidates, as a multiple of the largest number expected: four standard deviations of
  // that number, for 2^13 keys.
  static constexpr double kCandidateRoom = 1.21;

  // Room for candidates of a part of a selection, at least: which of the parts has those of the
  // interval is not known.
  static constexpr int64_t kPartRoom = int64_t{1} << 17;

  // Vectors of so many entries that a thread of the sweep loads together and then processes: as
  // many as the registers of a thread have room for.
  static constexpr int step_vecs(int entries) { return entries == 4 ? 4 : 2; }

  // Keys of a row that a thread of row_masks keeps in registers.
  static constexpr int kRowKeyBytes = 64;

  // Tiles that a block sweeps before it writes its candidates to memory, and candidates for which
  // it has room in shared memory until then.
  static constexpr int kBatchTiles = 16;
  static constexpr int kStaged = 2048;
};

// nm_masks, nm_prune.
struct NmPolicy {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerMultiprocessor = 8;
};

// block_norms, block_masks, block_prune.
struct BlocksPolicy {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerMultiprocessor = 8;

  // Columns of a row that a block of threads writes.
  static constexpr int kStretch = 1024;
};

}  // namespace fastprune::cuda
