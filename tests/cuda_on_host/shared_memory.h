// Shared memory: one allocation per variable, poisoned before each block.
//
// A kernel declares its shared variables through a macro of the project,
//   #define FP_SHARED(Type, name) auto& name = cuda_on_host::static_shared<Type>([] {}, #name)
// The lambda is a tag: its type is unique to the place and the template instantiation, as a
// __shared__ variable is. Type may be an array, `FP_SHARED(int[256], counts)`.
//
// Memory is aligned to alignof(Type) and no further, which is what CUDA guarantees. Dynamic shared
// memory is aligned to 16. AddressSanitizer reports an overrun where it happens; without it guard
// bytes around each variable are checked after each block.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "fiber.h"
#include "race/hooks.h"

namespace cuda_on_host {

inline constexpr size_t kMaxStaticShared = 48 * 1024;
inline constexpr size_t kMaxShared = 227 * 1024;  // static and dynamic together, sm_90

[[noreturn]] inline void fault(const std::string& what);  // machine.h

// Bytes between two guards, aligned to `alignment` and deliberately to no higher power of two.
class GuardedBytes {
 public:
  GuardedBytes(size_t bytes, size_t alignment, const char* name)
      : name_(name), bytes_(bytes), head_(alignment < 16 ? 16 + alignment : alignment) {
    void* base = nullptr;
    if (posix_memalign(&base, alignment < 16 ? 16 : 2 * alignment, head_ + bytes_ + kTail) != 0) {
      throw std::bad_alloc();
    }
    base_ = static_cast<unsigned char*>(base);
    std::memset(base_, kGuard, head_);
    std::memset(data() + bytes_, kGuard, kTail);
#if CUDA_ON_HOST_ASAN
    __asan_poison_memory_region(base_, unreadable());
#endif
  }
  ~GuardedBytes() {
#if CUDA_ON_HOST_ASAN
    __asan_unpoison_memory_region(base_, unreadable());
#endif
    std::free(base_);
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  unsigned char* data() const { return base_ + head_; }
  const char* name() const { return name_; }
  void fill(unsigned char byte) {
    std::memset(data(), byte, bytes_);
    race::forget(data(), bytes_, name_);
  }

  bool overrun() const {
    for (size_t i = unreadable(); i < head_; ++i) {
      if (base_[i] != kGuard) return true;
    }
    for (size_t i = 0; i < kTail; ++i) {
      if (data()[bytes_ + i] != kGuard) return true;
    }
    return false;
  }

 private:
  // AddressSanitizer guards the end, and the whole groups of 8 bytes of the head.
  static constexpr size_t kTail = CUDA_ON_HOST_ASAN ? 0 : 64;
  size_t unreadable() const { return CUDA_ON_HOST_ASAN ? head_ / 8 * 8 : 0; }
  static constexpr unsigned char kGuard = 0xDB;

  const char* name_;
  unsigned char* base_;
  size_t bytes_;
  size_t head_;
};

// State of one declaration: its memory, and the block that it was last poisoned for (0: none).
struct StaticVariable {
  unsigned long long launch = 0;
  unsigned long long block = 0;
  GuardedBytes* memory = nullptr;
};

class SharedMemory {
 public:
  void begin_launch(size_t dynamic_bytes) {
    ++launch_;
    static_bytes_ = 0;
    dynamic_bytes_ = dynamic_bytes;
    dynamic_ = std::make_unique<GuardedBytes>(dynamic_bytes, 16, "dynamic shared memory");
  }

  // Static variables are poisoned with the same byte when the block first names them.
  void begin_block(unsigned char poison) {
    ++block_;
    poison_ = poison;
    dynamic_->fill(poison);
  }

  void end_block() const {
    if (dynamic_->overrun()) report_overrun(*dynamic_);
    for (const auto& variable : static_) {
      if (variable->overrun()) report_overrun(*variable);
    }
  }

  void end_launch() {
    static_.clear();
    dynamic_.reset();
  }

  void* static_variable(StaticVariable& variable, size_t bytes, size_t alignment,
                        const char* name) {
    race::Pause pause;
    if (variable.launch != launch_) {
      static_bytes_ = (static_bytes_ + alignment - 1) / alignment * alignment + bytes;
      check_limits(name);
      static_.push_back(std::make_unique<GuardedBytes>(bytes, alignment, name));
      variable.memory = static_.back().get();
      variable.launch = launch_;
    }
    if (variable.block != block_) {
      variable.memory->fill(poison_);
      variable.block = block_;
    }
    return variable.memory->data();
  }

  void* dynamic() const { return dynamic_->data(); }

 private:
  void check_limits(const char* name) const {
    if (static_bytes_ > kMaxStaticShared || static_bytes_ + dynamic_bytes_ > kMaxShared) {
      fault("too much shared memory: '" + std::string(name) + "' brings it to " +
            std::to_string(static_bytes_) + " bytes static and " + std::to_string(dynamic_bytes_) +
            " dynamic; the limits are " + std::to_string(kMaxStaticShared) + " static and " +
            std::to_string(kMaxShared) + " in all");
    }
  }

  [[noreturn]] static void report_overrun(const GuardedBytes& memory) {
    fault("overrun: a thread wrote next to '" + std::string(memory.name()) + "'");
  }

  unsigned long long launch_ = 0;
  unsigned long long block_ = 0;
  unsigned char poison_ = 0;
  size_t static_bytes_ = 0;
  size_t dynamic_bytes_ = 0;
  std::vector<std::unique_ptr<GuardedBytes>> static_;
  std::unique_ptr<GuardedBytes> dynamic_;
};

inline SharedMemory shared_memory;

inline void require_kernel(const char* what);  // machine.h

template <class T, class Tag>
T& static_shared(Tag, const char* name = "shared variable") {
  static_assert(std::is_trivially_copyable_v<T>, "shared memory is raw memory");
  static_assert(std::is_empty_v<Tag>, "the tag is a captureless lambda written at the place");
  static StaticVariable variable;
  require_kernel(name);
  return *reinterpret_cast<T*>(
      shared_memory.static_variable(variable, sizeof(T), alignof(T), name));
}

inline void* dynamic_shared() {
  race::Pause pause;
  require_kernel("dynamic shared memory");
  return shared_memory.dynamic();
}

}  // namespace cuda_on_host
