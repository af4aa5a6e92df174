// The race detector: keeps order and shadow memory, and says which accesses race and which read
// what nobody wrote. Kernels run one at a time and on one OS thread (Machine's lock), so nothing
// here locks but Written, as any thread may allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hooks.h"
#include "order.h"
#include "shadow.h"
#include "written.h"

namespace cuda_on_host::race {

// The running thread of a kernel; null where accesses are not a kernel's own.
extern thread_local Observer* running;

class Detector {
 public:
  void begin_launch(unsigned block_threads);
  std::string end_launch();
  void begin_block(uint32_t block);
  void block_barrier(const Site& site);
  void warp_barrier(unsigned first, unsigned lanes, const Site& site);
  void fence(Observer& thread, Scope scope, const Site& site);
  void forget(uintptr_t begin, size_t bytes, const char* name);
  void drop(const std::string& place) { dropped_ = place; }
  Observer& thread(unsigned linear) { return threads_[linear]; }

  // An update reads what it writes.
  void access(Observer& thread, uintptr_t begin, size_t bytes, uint8_t kind, const void* pc,
              bool updates = false);
  Written& written() { return written_; }

  // A relaxed atomic: takes what the variable carries if it reads, and adds to it if it writes. A
  // plain store of a volatile ends what the variable carried.
  void pass(Observer& thread, uintptr_t address, Scope scope, bool reads, bool writes);

 private:
  bool is_dropped(const Site& site) const;
  uint32_t block_of(const Slot& slot) const { return slot.warp / warps_; }
  uint32_t unordered(const Slot& slot, const Observer& thread) const;
  bool conflicts(const Slot& slot, uint8_t bytes, uint8_t kind) const;
  void expect_written(const Observer& thread, uintptr_t begin, size_t bytes, const void* pc);
  void access_cell(Observer& thread, uintptr_t at, uint8_t bytes, uint8_t kind, const void* pc);
  void report(const Slot& slot, uint32_t lanes, const Observer& thread, uintptr_t at, uint8_t kind,
              uint32_t pc);
  using Shared = std::map<uintptr_t, std::pair<size_t, const char*>>;  // first byte: size, name
  const Shared::value_type* shared_variable(uintptr_t address) const;
  std::string where(uintptr_t address) const;
  std::string who(uint32_t warp, uint32_t lane) const;

  static constexpr size_t kMostReports = 4;

  Shadow shadow_;
  Written written_;
  std::vector<Observer> threads_;
  std::unordered_map<uintptr_t, Carried> carried_;
  Shared shared_;
  std::string dropped_;

  uint32_t block_threads_ = 0;
  uint32_t warps_ = 1;  // of a block
  uint32_t block_ = 0;
  Clock floor_ = 0;

  std::set<std::pair<uint32_t, uint32_t>> reported_;  // pairs of places; 0 and one for a read
  std::vector<std::string> reports_;
};

extern Detector detector;

}  // namespace cuda_on_host::race
