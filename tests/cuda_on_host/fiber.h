// One stack per CUDA thread, and the switch between it and the scheduler's stack.
//
// swapcontext makes two system calls a switch, so x86-64 has an implementation of ten instructions;
// other architectures (or -DCUDA_ON_HOST_UCONTEXT) use ucontext and are ten times slower.
// AddressSanitizer is told of every switch; with ucontext it still misses errors on the stacks.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#include "race/stack.h"

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_HOST_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define CUDA_ON_HOST_ASAN 0
#endif

#if !defined(__x86_64__) && !defined(CUDA_ON_HOST_UCONTEXT)
#define CUDA_ON_HOST_UCONTEXT
#endif
#if defined(CUDA_ON_HOST_UCONTEXT)
#include <ucontext.h>
#endif

namespace cuda_on_host {

// Redzones make frames several times larger.
inline constexpr size_t kStackBytes = CUDA_ON_HOST_ASAN ? 256 * 1024 : 64 * 1024;

#if defined(CUDA_ON_HOST_UCONTEXT)

struct Context {
  ucontext_t state;
};
inline void switch_context(Context& from, Context& to) {
  swapcontext(&from.state, &to.state);
}
inline void start_context(Context& context, char* bottom, size_t bytes, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = bottom;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

#else

struct Context {
  void* stack_pointer;
};

#if defined(__clang__)
#define CUDA_ON_HOST_NAKED __attribute__((naked, noinline))
#else
// noipa: g++ must not infer from the seemingly empty body which registers survive the call.
#define CUDA_ON_HOST_NAKED __attribute__((naked, noipa))
#endif

// Saves the callee-saved registers on the old stack and restores them from the new one.
CUDA_ON_HOST_NAKED inline void switch_context(Context& /*from: rdi*/, Context& /*to: rsi*/) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq (%rsi), %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#undef CUDA_ON_HOST_NAKED

inline void start_context(Context& context, char* bottom, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(bottom + bytes);
  *--top = nullptr;                         // entry's return address: unwinding ends here
  *--top = reinterpret_cast<void*>(entry);  // where switch_context's ret goes
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
}

#endif

// The stack of the thread that called run().
struct MainStack {
  Context context;
  void* fake_stack = nullptr;    // AddressSanitizer's
  const void* bottom = nullptr;  // set by the first switch away from it
  size_t bytes = 0;
};
inline MainStack main_stack;

class Fiber {
 public:
  // Stacks at the same offset of a page compete for the same cache sets; `colour` spreads them.
  explicit Fiber(unsigned colour) : usable_(kStackBytes - (colour % 16) * 256) {
    const size_t guard = guard_bytes();
    void* map = race::map_stack(guard + kStackBytes);
    mprotect(map, guard, PROT_NONE);
    bottom_ = static_cast<char*>(map) + guard;
  }
  ~Fiber() { race::unmap_stack(bottom_ - guard_bytes(), guard_bytes() + kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry on an empty stack; its old contents are abandoned. entry must
  // begin with entered() and end with finish().
  void start(void (*entry)()) {
#if CUDA_ON_HOST_ASAN
    if (unfinished_) __asan_unpoison_memory_region(bottom_, kStackBytes);
    fake_stack_ = nullptr;
#endif
    unfinished_ = true;
    start_context(context_, bottom_, usable_, entry);
  }

  // On the main stack: runs the fiber until it pauses or finishes.
  void resume() {
#if CUDA_ON_HOST_ASAN
    __sanitizer_start_switch_fiber(&main_stack.fake_stack, bottom_, kStackBytes);
#endif
    switch_context(main_stack.context, context_);
#if CUDA_ON_HOST_ASAN
    __sanitizer_finish_switch_fiber(main_stack.fake_stack, nullptr, nullptr);
#endif
  }

  void entered() {
#if CUDA_ON_HOST_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, &main_stack.bottom, &main_stack.bytes);
#endif
  }

  void pause() {
#if CUDA_ON_HOST_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, main_stack.bottom, main_stack.bytes);
#endif
    switch_context(context_, main_stack.context);
    entered();
  }

  // Does not return. Not [[noreturn]]: AddressSanitizer clears the whole stack before such a call.
  void finish() {
    unfinished_ = false;
#if CUDA_ON_HOST_ASAN
    __sanitizer_start_switch_fiber(nullptr, main_stack.bottom, main_stack.bytes);
#endif
    switch_context(context_, main_stack.context);
    __builtin_unreachable();
  }

 private:
  static size_t guard_bytes() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
  }

  Context context_;
  char* bottom_;
  size_t usable_;
  bool unfinished_ = false;
  void* fake_stack_ = nullptr;
};

}  // namespace cuda_on_host
