// The scheduler: runs a grid block by block and a block thread by thread, and reports faults.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fiber.h"
#include "race/hooks.h"
#include "random.h"
#include "shared_memory.h"
#include "thread.h"
#include "types.h"

namespace cuda_on_host {

inline void resolve_nothing(Lane*, unsigned) {}  // of __syncwarp

class Machine {
 public:
  using Body = void (*)(const void* parameters);

  Machine() {
    const char* value = std::getenv("CUDA_ON_HOST_SEED");
    if (value != nullptr && *value != '\0') seed_ = std::strtoull(value, nullptr, 0);
  }

  void launch(const char* kernel, Body body, const void* parameters, dim3 grid, dim3 block,
              size_t dynamic_bytes);

  void set_seed(uint64_t seed) {
    std::lock_guard<std::mutex> lock(mutex_);
    seed_ = seed;
    launches_ = 0;
  }

  std::vector<std::pair<std::string, size_t>> launched() {
    std::lock_guard<std::mutex> lock(mutex_);
    return {launched_.begin(), launched_.end()};
  }

  // The running thread; null outside a kernel.
  Thread* current() const { return current_; }
  Random& random() { return random_; }

  std::string where() const;

  // Barrier of the whole block. Returns the number of threads whose predicate is true.
  unsigned meet_block(const char* kind, bool predicate, Site site);

  // Barrier of the lanes in mask. The last one calls resolve, which sets `out` of every lane in
  // the given set: a lane that goes on may enter the next intrinsic before others read theirs.
  using Resolve = void (*)(Lane* lanes, unsigned set);
  uint64_t meet_warp(const char* kind, unsigned mask, uint64_t in, int source, Resolve resolve,
                     Site site);

  // Lets another thread run, once in `one_in` calls on average.
  void maybe_switch(uint32_t one_in) {
    race::Pause pause;
    if (current_ == nullptr || ready_.empty() || random_.below(one_in) != 0) return;
    ready_.push_back(current_);
    current_->fiber.pause();
  }

 private:
  void check_launch(dim3 grid, dim3 block, size_t dynamic_bytes) const;
  void begin_threads(dim3 block);
  void run_block();
  void run_thread();
  void exit_thread();
  void wait(Thread::State state, const char* kind, Site site);
  void release(Thread& thread);
  [[noreturn]] void report_stall();
  static void thread_entry();

  // State of the process
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
  uint64_t seed_ = 0x5eed;
  uint64_t launches_ = 0;
  std::map<std::string, size_t> launched_;
  std::vector<std::unique_ptr<Thread>> threads_;  // kept for their stacks

  // State of the launch
  const char* kernel_ = nullptr;
  Body body_ = nullptr;
  const void* parameters_ = nullptr;
  unsigned block_threads_ = 0;
  Random random_;

  // State of the block
  bool in_block_ = false;
  Thread* current_ = nullptr;
  std::vector<Thread*> ready_;
  std::vector<Warp> warps_;
  unsigned exited_ = 0;
  unsigned at_barrier_ = 0;
  unsigned predicates_ = 0;
  unsigned barrier_result_ = 0;
  const char* barrier_kind_ = "";
  Site barrier_site_;
  std::exception_ptr error_;
};

inline Machine machine;

[[noreturn]] inline void fault(const std::string& what) {
  throw Fault("cuda_on_host: " + machine.where() + what);
}

[[noreturn]] inline void fault_outside_of_kernel(const char* what) {
  fault(std::string(what) + " used outside a kernel");
}

inline void require_kernel(const char* what) {
  if (machine.current() == nullptr) fault_outside_of_kernel(what);
}

inline std::string Machine::where() const {
  if (kernel_ == nullptr) return "";
  std::string where = std::string("kernel '") + kernel_ + "'";
  if (in_block_) where += ", block " + text(indices.block);
  if (current_ != nullptr) where += ", thread " + text(current_->index);
  return where + " [seed " + std::to_string(seed_) + ", launch " + std::to_string(launches_) +
         " since it was set]: ";
}

inline void Machine::check_launch(dim3 grid, dim3 block, size_t dynamic_bytes) const {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fault("empty grid " + text(grid));
  if (block.x == 0 || block.y == 0 || block.z == 0) fault("empty block " + text(block));
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    fault("grid " + text(grid) + " is over the limit of (2147483647,65535,65535)");
  }
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024) {
    fault("block " + text(block) + " is over the limit of 1024 threads, z 64");
  }
  if (dynamic_bytes > kMaxShared) {
    fault(std::to_string(dynamic_bytes) + " bytes of dynamic shared memory; the limit is " +
          std::to_string(kMaxShared));
  }
}

inline void Machine::launch(const char* kernel, Body body, const void* parameters, dim3 grid,
                            dim3 block, size_t dynamic_bytes) {
  if (owner_.load() == std::this_thread::get_id()) {
    fault(std::string("launch of '") + kernel + "' inside a kernel is not emulated");
  }
  std::lock_guard<std::mutex> lock(mutex_);

  struct Cleanup {  // also after a fault
    Machine& m;
    ~Cleanup() {
      m.current_ = nullptr;
      m.in_block_ = false;
      m.kernel_ = nullptr;
      m.error_ = nullptr;
      race::end_launch();
      shared_memory.end_launch();
      m.owner_.store({});
    }
  } cleanup{*this};

  owner_.store(std::this_thread::get_id());
  kernel_ = kernel;
  body_ = body;
  parameters_ = parameters;
  random_ = Random(splitmix64(seed_) + ++launches_);
  check_launch(grid, block, dynamic_bytes);
  indices.grid_dim = grid;
  indices.block_dim = block;
  begin_threads(block);
  race::begin_launch(block_threads_);
  shared_memory.begin_launch(dynamic_bytes);

  std::vector<uint64_t> order(size_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  random_.shuffle(order);
  for (uint64_t linear : order) {
    indices.block = {static_cast<unsigned>(linear % grid.x),
                     static_cast<unsigned>(linear / grid.x % grid.y),
                     static_cast<unsigned>(linear / grid.x / grid.y)};
    in_block_ = true;
    race::begin_block(linear);
    run_block();
  }
  in_block_ = false;
  const std::string races = race::end_launch();
  if (!races.empty()) fault(races);
  ++launched_[kernel];
}

inline void Machine::begin_threads(dim3 block) {
  block_threads_ = block.x * block.y * block.z;
  while (threads_.size() < block_threads_) {
    threads_.push_back(std::make_unique<Thread>(static_cast<unsigned>(threads_.size())));
  }
  warps_.assign((block_threads_ + 31) / 32, Warp());
  for (unsigned i = 0; i < block_threads_; ++i) {
    threads_[i]->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    warps_[i / 32].present |= 1u << i % 32;
  }
}

inline void Machine::run_block() {
  shared_memory.begin_block(random_.poison());
  exited_ = at_barrier_ = predicates_ = 0;
  for (Warp& warp : warps_) warp.exited = warp.waiting = 0;
  ready_.clear();
  for (unsigned i = 0; i < block_threads_; ++i) {
    threads_[i]->fiber.start(&thread_entry);
    release(*threads_[i]);
  }
  while (exited_ < block_threads_) {
    if (ready_.empty()) report_stall();
    std::swap(ready_[random_.below(static_cast<uint32_t>(ready_.size()))], ready_.back());
    current_ = ready_.back();
    ready_.pop_back();
    indices.thread = current_->index;
    current_->fiber.resume();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }
  current_ = nullptr;
  shared_memory.end_block();
}

// The bottom frame of every fiber: no exception may leave it.
inline void Machine::thread_entry() {
  Thread& self = *machine.current_;
  self.fiber.entered();
  machine.run_thread();
  self.fiber.finish();
}

inline void Machine::run_thread() {
  try {
    race::begin_thread(current_->linear);
    body_(parameters_);
    race::end_thread();
    exit_thread();
  } catch (...) {
    race::end_thread();
    error_ = std::current_exception();
  }
}

inline void Machine::exit_thread() {
  if (at_barrier_ > 0) {
    fault("divergent barrier: this thread exited while " + std::to_string(at_barrier_) +
          " others wait at " + barrier_kind_ + ", " + barrier_site_.text());
  }
  current_->state = Thread::kExited;
  warps_[current_->linear / 32].exited |= 1u << current_->linear % 32;
  ++exited_;
}

inline void Machine::wait(Thread::State state, const char* kind, Site site) {
  current_->state = state;
  current_->kind = kind;
  current_->site = site;
  current_->fiber.pause();
}

inline void Machine::release(Thread& thread) {
  thread.state = Thread::kReady;
  ready_.push_back(&thread);
}

// CUDA allows __syncthreads in conditional code only where the whole block takes the same branch.
// So it is a fault if threads wait at different places in the sources, or if one has exited.
inline unsigned Machine::meet_block(const char* kind, bool predicate, Site site) {
  race::Pause pause;
  require_kernel(kind);
  if (exited_ > 0) {
    fault(std::string("divergent barrier: this thread is at ") + kind + ", " + site.text() +
          ", but " + std::to_string(exited_) + " threads have exited");
  }
  if (at_barrier_ > 0 && (std::strcmp(kind, barrier_kind_) != 0 || !(site == barrier_site_))) {
    fault(std::string("divergent barrier: this thread is at ") + kind + ", " + site.text() +
          ", but " + std::to_string(at_barrier_) + " others wait at " + barrier_kind_ + ", " +
          barrier_site_.text());
  }
  barrier_kind_ = kind;
  barrier_site_ = site;
  predicates_ += predicate;
  if (++at_barrier_ < block_threads_) {
    wait(Thread::kAtBarrier, kind, site);
  } else {
    barrier_result_ = predicates_;  // kept: the next barrier completes only after all have read it
    at_barrier_ = predicates_ = 0;
    race::block_barrier(site);
    for (unsigned i = 0; i < block_threads_; ++i) release(*threads_[i]);
    current_->fiber.pause();  // the last to arrive does not go on first
  }
  return barrier_result_;
}

inline uint64_t Machine::meet_warp(const char* kind, unsigned mask, uint64_t in, int source,
                                   Resolve resolve, Site site) {
  race::Pause pause;
  require_kernel(kind);
  const unsigned first = current_->linear / 32 * 32;
  const unsigned self = current_->linear % 32;
  Warp& warp = warps_[current_->linear / 32];
  if ((mask >> self & 1) == 0) {
    fault(std::string(kind) + ", " + site.text() + ": mask " + hex(mask) +
          " does not name the calling lane " + std::to_string(self));
  }
  if (mask & warp.exited) {
    fault(std::string(kind) + ", " + site.text() + ": mask " + hex(mask) +
          " names lanes that have exited, " + hex(mask & warp.exited));
  }
  const unsigned set = mask & warp.present;
  Lane& lane = warp.lanes[self];
  lane = {kind, mask, source, in, 0};
  warp.waiting |= 1u << self;

  bool complete = (warp.waiting & set) == set;
  for (unsigned i = 0; complete && i < 32; ++i) {
    if ((set >> i & 1) == 0) continue;
    complete = warp.lanes[i].mask == mask && std::strcmp(warp.lanes[i].kind, kind) == 0;
  }
  if (!complete) {
    wait(Thread::kAtWarp, kind, site);
  } else {
    resolve(warp.lanes, set);
    warp.waiting &= ~set;
    if (resolve == &resolve_nothing) race::warp_barrier(first, set, site);  // a __syncwarp
    for (unsigned i = 0; i < 32; ++i) {
      if (set >> i & 1) release(*threads_[first + i]);
    }
    current_->fiber.pause();
  }
  return lane.out;
}

// No thread can run: a warp intrinsic waits for lanes that wait elsewhere. Reports where each is.
inline void Machine::report_stall() {
  current_ = nullptr;
  std::map<std::string, std::pair<unsigned, uint3>> places;
  for (unsigned i = 0; i < block_threads_; ++i) {
    const Thread& thread = *threads_[i];
    std::string place = "exited";
    if (thread.state != Thread::kExited) {
      place = std::string("in ") + thread.kind + ", " + thread.site.text();
      if (current_ == nullptr && thread.state == Thread::kAtWarp) current_ = threads_[i].get();
    }
    if (thread.state == Thread::kAtWarp) {
      place += ", mask " + hex(warps_[i / 32].lanes[i % 32].mask);
    }
    ++places.emplace(place, std::make_pair(0u, thread.index)).first->second.first;
  }
  std::string list;
  for (const auto& [place, who] : places) {
    list += (list.empty() ? "" : "; ") + std::to_string(who.first) + " " + place +
            " (first thread " + text(who.second) + ")";
  }
  fault("divergence, nobody can go on. Threads: " + list);
}

}  // namespace cuda_on_host
