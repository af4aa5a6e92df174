// Tests of the race detector, without torch: small patterns that race or do not, and the classic
// mistakes of a reduction by the last block.
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_on_host.h"

#define FP_SHARED(Type, name) auto& name = cuda_on_host::static_shared<Type>([] {}, #name)

namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kThreads = 64;
constexpr int kSeeds = 8;
int failures = 0;

void check(bool ok, const std::string& what) {
  std::printf("%s  %s\n", ok ? "ok  " : "FAIL", what.c_str());
  if (!ok) ++failures;
}

// Lines of the kernels below, which they note as they run.
enum Line {
  kWritesShared,
  kReadsShared,
  kReadsOther,
  kWritesOwn,
  kWritesPartial,
  kReadsPartial,
  kWritesWord,
  kBarrierAtEnd,
  kReadsUnwritten,
  kLines
};
int lines[kLines];
#define AT(line) (lines[line] = __LINE__)

struct Data {
  int value;
  unsigned flag;
  unsigned other;
  unsigned long long wide;
  unsigned char bytes[8];
  int out[kThreads];
};

// What the detector says in the first of several seeds that it says anything in.
template <class Kernel>
std::string report_of(const char* name, Kernel kernel, int blocks) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    Data data{};
    cuda_on_host::set_seed(seed);
    try {
      cuda_on_host::run(name, kernel, blocks, kThreads, 0, &data);
    } catch (const cuda_on_host::Fault& fault) {
      return fault.what();
    }
  }
  return "";
}

void expect(bool races, const char* name, void (*kernel)(Data*), int blocks = 2) {
  const std::string report = report_of(name, kernel, blocks);
  const bool found = report.find("race on") != std::string::npos;
  check(found == races, std::string(name) + (races ? ": a race" : ": none"));
  if (found != races) std::printf("      %s\n", report.c_str());
}
#define RACE(kernel) expect(true, #kernel, &kernel)
#define NO_RACE(kernel) expect(false, #kernel, &kernel)

// ---- messages: block 0 writes a value and raises a flag, another reads it ----

template <class Raise, class IsRaised>
__device__ void pass(Data* d, Raise raise, IsRaised is_raised) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    d->value = 1;
    raise();
  } else if (is_raised()) {
    d->out[blockIdx.x] = d->value;
  }
}
#define MESSAGE(name, raise, is_raised)                    \
  __global__ void name(Data* d) {                          \
    pass(d, [&] { raise; }, [&]() -> bool { is_raised; }); \
  }
#define POLL unsigned raised = atomicAdd(&d->flag, 0u)

MESSAGE(fences_and_atomics, __threadfence(); atomicExch(&d->flag, 1u), POLL; __threadfence();
        return raised)
MESSAGE(system_fences, __threadfence_system(); atomicExch_system(&d->flag, 1u), POLL;
        __threadfence_system(); return raised)
MESSAGE(no_fence_before, atomicExch(&d->flag, 1u), POLL; __threadfence(); return raised)
MESSAGE(no_fence_after, __threadfence(); atomicExch(&d->flag, 1u), POLL; return raised)
MESSAGE(fence_too_late, atomicExch(&d->flag, 1u); __threadfence(), POLL; __threadfence();
        return raised)
MESSAGE(fence_too_early, __threadfence(); atomicExch(&d->flag, 1u), __threadfence(); POLL;
        return raised)
MESSAGE(block_fences, __threadfence_block(); atomicExch(&d->flag, 1u), POLL; __threadfence_block();
        return raised)
MESSAGE(block_fence_after, __threadfence(); atomicExch(&d->flag, 1u), POLL; __threadfence_block();
        return raised)
MESSAGE(block_atomic, __threadfence(); atomicExch_block(&d->flag, 1u), POLL; __threadfence();
        return raised)
MESSAGE(volatile_flag, __threadfence(); *const_cast<volatile unsigned*>(&d->flag) = 1,
                                        unsigned raised = *const_cast<volatile unsigned*>(&d->flag);
        __threadfence(); return raised)
MESSAGE(plain_flag, __threadfence(); d->flag = 1, unsigned raised = d->flag; __threadfence();
        return raised)
MESSAGE(wrong_flag, __threadfence();
        atomicExch(&d->flag, 1u), unsigned raised = atomicAdd(&d->other, 0u) + 1; __threadfence();
        return raised)

void test_messages() {
  NO_RACE(fences_and_atomics);
  NO_RACE(system_fences);
  NO_RACE(volatile_flag);
  RACE(no_fence_before);
  RACE(no_fence_after);
  RACE(fence_too_late);
  RACE(fence_too_early);
  RACE(block_fences);
  RACE(block_fence_after);
  RACE(block_atomic);
  RACE(plain_flag);
  RACE(wrong_flag);
}

// ---- single accesses ----

__global__ void atomics_alone(Data* d) {
  atomicAdd(&d->flag, 1u);
}
__global__ void atomic_and_read(Data* d) {
  if (blockIdx.x == 0) {
    atomicAdd(&d->flag, 1u);
  } else if (threadIdx.x == 0) {
    d->out[0] = static_cast<int>(d->flag);
  }
}
__global__ void atomics_of_two_sizes(Data* d) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    atomicAdd(&d->wide, 1ull);
  } else {
    atomicAdd(reinterpret_cast<unsigned*>(&d->wide), 1u);
  }
}
__global__ void neighbouring_bytes(Data* d) {
  if (blockIdx.x == 0 && threadIdx.x < 8) d->bytes[threadIdx.x] = 1;
}
__global__ void overlapping_bytes(Data* d) {
  if (blockIdx.x != 0 || threadIdx.x > 1) return;
  if (threadIdx.x == 0) {
    cuda_on_host::store(reinterpret_cast<uint32_t*>(d->bytes), 1u);
  } else {
    d->bytes[3] = 1;
  }
}
__global__ void one_value_by_two_blocks(Data* d) {
  if (threadIdx.x == 0) d->value = 7;
}
__global__ void one_word_by_a_thread(Data* d) {
  if (blockIdx.x == 0 && threadIdx.x == 5) {
    d->value = 1;
    d->value = d->value + 1;
  }
}
__global__ void block_atomics_of_a_block(Data* d) {
  if (blockIdx.x == 0) atomicAdd_block(&d->flag, 1u);
}
__global__ void block_atomics_of_two_blocks(Data* d) {
  atomicAdd_block(&d->flag, 1u);
}
__global__ void block_atomics_and_others(Data* d) {
  if (blockIdx.x == 0) {
    atomicAdd_block(&d->flag, 1u);
  } else {
    atomicAdd(&d->flag, 1u);
  }
}

void test_accesses() {
  NO_RACE(atomics_alone);
  RACE(atomic_and_read);
  RACE(atomics_of_two_sizes);
  NO_RACE(neighbouring_bytes);
  RACE(overlapping_bytes);
  RACE(one_value_by_two_blocks);
  NO_RACE(one_word_by_a_thread);
  NO_RACE(block_atomics_of_a_block);
  RACE(block_atomics_of_two_blocks);
  RACE(block_atomics_and_others);
}

// ---- warps and blocks ----

template <class Between>
__device__ void pass_in_warp(Data* d, unsigned reader, Between between) {
  if (blockIdx.x != 0 || threadIdx.x >= 32) return;
  if (threadIdx.x == 0) d->value = 1;
  between();
  if (threadIdx.x == reader) d->out[0] = d->value;
}
#define HALF (threadIdx.x < 16 ? 0xffffu : 0xffff0000u)
__global__ void shuffle(Data* d) {
  pass_in_warp(d, 1, [] { __shfl_sync(kFull, 1, 0); });
}
__global__ void vote(Data* d) {
  pass_in_warp(d, 1, [] { __ballot_sync(kFull, 1); });
}
__global__ void syncwarp(Data* d) {
  pass_in_warp(d, 1, [] { __syncwarp(); });
}
__global__ void syncwarp_of_the_half(Data* d) {
  pass_in_warp(d, 15, [] { __syncwarp(HALF); });
}
__global__ void syncwarp_of_another_half(Data* d) {
  pass_in_warp(d, 16, [] { __syncwarp(HALF); });
}
__global__ void syncwarp_twice(Data* d) {
  pass_in_warp(d, 16, [] {
    __syncwarp(HALF);
    __syncwarp();
  });
}
__global__ void syncwarp_of_another_warp(Data* d) {
  if (blockIdx.x != 0) return;
  if (threadIdx.x == 0) d->value = 1;
  __syncwarp();
  if (threadIdx.x == 32) d->out[0] = d->value;
}

template <bool kTwice>
__device__ void exchange(Data* d) {
  FP_SHARED(int[kThreads], slots);
  for (int i = 0; i < 2; ++i) {
    slots[threadIdx.x] = i;
    __syncthreads();
    if (slots[kThreads - 1 - threadIdx.x] != i) d->out[threadIdx.x] = 1;
    if (kTwice) __syncthreads(), AT(kBarrierAtEnd);
  }
}
__global__ void shared_reused(Data* d) {
  exchange<true>(d);
}
__global__ void shared_reused_too_early(Data* d) {
  exchange<false>(d);
}
__global__ void shared_of_the_next_block(Data* d) {  // blocks have shared memory of their own
  FP_SHARED(int, slot);
  if (threadIdx.x == blockIdx.x) slot = 1;
}
template <bool kBarrier>
__device__ void storage_twice(Data* d) {
  using Scan = cub::BlockScan<int, kThreads>;
  FP_SHARED(Scan::TempStorage, storage);
  int before;
  Scan(storage).ExclusiveSum(1, before);
  if (kBarrier) __syncthreads();
  Scan(storage).ExclusiveSum(before, before);
  if (blockIdx.x == 0) d->out[threadIdx.x] = before;
}
__global__ void storage_reused(Data* d) {
  storage_twice<true>(d);
}
__global__ void storage_reused_too_early(Data* d) {
  storage_twice<false>(d);
}

void test_barriers() {
  RACE(shuffle);
  RACE(vote);
  NO_RACE(syncwarp);
  NO_RACE(syncwarp_of_the_half);
  RACE(syncwarp_of_another_half);
  NO_RACE(syncwarp_twice);
  RACE(syncwarp_of_another_warp);
  NO_RACE(shared_reused);
  RACE(shared_reused_too_early);
  NO_RACE(shared_of_the_next_block);
  NO_RACE(storage_reused);
  RACE(storage_reused_too_early);
}

// ---- a reduction by the last block, right and with one thing wrong ----

enum Mistake {
  kNone,
  kNoFenceBefore,  // the atomic
  kNoFenceAfter,
  kNoBarrierAfterWrites,
  kNoSyncwarp,
  kOneWordByTwoBlocks
};

template <Mistake kMistake>
__global__ void reduce(Data* d) {
  FP_SHARED(int[kThreads], sums);
  FP_SHARED(bool, last);
  sums[threadIdx.x] = 1, AT(kWritesShared);
  if (kMistake != kNoBarrierAfterWrites) __syncthreads();
  if (threadIdx.x < 32) {
    int sum = sums[threadIdx.x];
    sum += sums[threadIdx.x + 32], AT(kReadsShared);
    sums[threadIdx.x] = sum;
    for (int half = 16; half > 0; half /= 2) {
      if (kMistake != kNoSyncwarp) __syncwarp();
      sum += sums[threadIdx.x ^ half], AT(kReadsOther);
      if (kMistake != kNoSyncwarp) __syncwarp();
      sums[threadIdx.x] = sum, AT(kWritesOwn);
    }
  }
  if (threadIdx.x == 0) {
    d->out[blockIdx.x] = sums[0], AT(kWritesPartial);
    if (kMistake == kOneWordByTwoBlocks) d->value = 1, AT(kWritesWord);
    if (kMistake != kNoFenceBefore) __threadfence();
    last = atomicInc(&d->flag, gridDim.x - 1) == gridDim.x - 1;
    if (kMistake != kNoFenceAfter) __threadfence();
  }
  __syncthreads();
  if (last && threadIdx.x == 40) {
    int total = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) {
      total += d->out[b], AT(kReadsPartial);
    }
    d->other = static_cast<unsigned>(total);
  }
}

void expect_lines(const char* what, void (*kernel)(Data*), Line first, Line second) {
  const std::string report = report_of("reduce", kernel, 4);
  const auto names = [&](Line line) {
    return report.find("selftest.cpp:" + std::to_string(lines[line])) != std::string::npos;
  };
  const bool ok = report.find("kernel 'reduce'") != std::string::npos &&
                  report.find("race on") != std::string::npos && names(first) && names(second) &&
                  report.find("[seed ") != std::string::npos &&
                  report.find("by block ") != std::string::npos;
  check(ok, std::string("reduction, ") + what);
  if (!ok) std::printf("      %d and %d: %s\n", lines[first], lines[second], report.c_str());
}

void test_reduction() {
  check(report_of("reduce", &reduce<kNone>, 4).empty(), "reduction, right");
  expect_lines("no fence before the atomic", &reduce<kNoFenceBefore>, kWritesPartial,
               kReadsPartial);
  expect_lines("no fence on the reader's side", &reduce<kNoFenceAfter>, kWritesPartial,
               kReadsPartial);
  expect_lines("no barrier after writes to shared memory", &reduce<kNoBarrierAfterWrites>,
               kWritesShared, kReadsShared);
  expect_lines("lanes exchange without __syncwarp", &reduce<kNoSyncwarp>, kReadsOther, kWritesOwn);
  expect_lines("two blocks write one word", &reduce<kOneWordByTwoBlocks>, kWritesWord, kWritesWord);
}

// ---- memory that nobody wrote ----

__global__ void reads_global(Data* d) {
  if (blockIdx.x == 0 && threadIdx.x == 0) d->out[0] = d->value, AT(kReadsUnwritten);
}
__global__ void writes_and_reads_global(Data* d) {
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  d->value = 1;
  d->out[0] = d->value;
}
__global__ void adds_to_global(Data* d) {
  atomicAdd(&d->flag, 1u);
}
__global__ void reads_a_vector(Data* d) {
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  d->bytes[0] = d->bytes[1] = d->bytes[2] = 1;
  d->out[0] = cuda_on_host::load(reinterpret_cast<const int*>(d->bytes));
}
__global__ void reads_shared(Data* d) {
  FP_SHARED(int[kThreads], slots);
  if (threadIdx.x != 1) slots[threadIdx.x] = 1;
  __syncthreads();
  if (blockIdx.x == 0) d->out[threadIdx.x] = slots[kThreads - 1 - threadIdx.x];
}
struct Padded {
  uint64_t wide;
  int narrow;
};
__global__ void copies_padding(Data* d) {
  FP_SHARED(Padded, slot);
  if (threadIdx.x == 0) {
    slot.wide = 1;
    slot.narrow = 1;
  }
  __syncthreads();
  const Padded copy = slot;
  if (blockIdx.x == 0) d->out[threadIdx.x] = copy.narrow;
}

// What the detector says if none of a kernel's global memory is written before, or all of it.
std::string report_of_read(const char* name, void (*kernel)(Data*), bool written) {
  Data data{};
  cuda_on_host::race::allocated(&data, sizeof data);
  if (written) cuda_on_host::race::written(&data, sizeof data);
  std::string report;
  try {
    cuda_on_host::run(name, kernel, 2, kThreads, 0, &data);
  } catch (const cuda_on_host::Fault& fault) {
    report = fault.what();
  }
  cuda_on_host::race::released(&data);
  return report;
}

void expect_read(bool reads, const char* name, void (*kernel)(Data*), bool written = false) {
  const std::string report = report_of_read(name, kernel, written);
  const bool found = report.find("that nobody wrote") != std::string::npos;
  check(found == reads, std::string(name) + (reads ? ": not written" : ": written"));
  if (found != reads) std::printf("      %s\n", report.c_str());
}

void test_unwritten() {
  expect_read(true, "reads_global", &reads_global);
  expect_read(false, "reads_global", &reads_global, true);
  expect_read(false, "writes_and_reads_global", &writes_and_reads_global);
  expect_read(true, "adds_to_global", &adds_to_global);
  expect_read(true, "reads_a_vector", &reads_a_vector);
  expect_read(true, "reads_shared", &reads_shared);
  expect_read(false, "copies_padding", &copies_padding);
  NO_RACE(reads_global);  // memory that the detector was not told of

  const std::string report = report_of_read("reads_global", &reads_global, false);
  const std::string line = "selftest.cpp:" + std::to_string(lines[kReadsUnwritten]);
  check(report.find("read of global memory that nobody wrote, by block 0 thread 0 at " + line) !=
            std::string::npos,
        "a read of what nobody wrote is reported with its line");
}

// ---- an edge dropped while the schedule keeps it ----

void test_dropped() {
  const std::string place = "race/selftest.cpp:" + std::to_string(lines[kBarrierAtEnd]);
  for (const std::string& other : {"race/other.cpp" + place.substr(place.find(':')), place + "0"}) {
    cuda_on_host::race::drop(other);
    NO_RACE(shared_reused);
  }
  cuda_on_host::race::drop(place);
  RACE(shared_reused);
  cuda_on_host::race::drop("");
  NO_RACE(shared_reused);
}

}  // namespace

int main() {
  test_messages();
  test_accesses();
  test_barriers();
  test_reduction();
  test_unwritten();
  test_dropped();
  std::printf(failures == 0 ? "all well\n" : "%d FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}
