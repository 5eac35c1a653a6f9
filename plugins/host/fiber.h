// Fibers for the host emulation, one per CUDA thread.  On x86-64 they are switched in assembly: swapcontext
// makes a system call per switch (it saves the signal mask), and a test sweep makes hundreds of millions of
// switches.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace patch::host {

// Stacks of all fibers in one mapping.  A page takes memory only once a fiber touches it.
class StackPool {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kStackBytes = 256 << 10;  // its frames are larger
#else
  static constexpr size_t kStackBytes = 32 << 10;
#endif

  explicit StackPool(size_t count) : bytes_(count * kStackBytes) {
    void* p =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("no memory for fiber stacks");
    base_ = static_cast<uint8_t*>(p);
  }
  ~StackPool() { munmap(base_, bytes_); }
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  StackPool(StackPool&&) = delete;
  StackPool& operator=(StackPool&&) = delete;

  // Returns a stack for a new fiber.  The one before may have ended inside of its functions, whose frames
  // AddressSanitizer still guards.
  uint8_t* operator[](size_t i) const {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(base_ + i * kStackBytes, kStackBytes);
#endif
    return base_ + i * kStackBytes;
  }

 private:
  size_t bytes_;
  uint8_t* base_ = nullptr;
};

#if defined(__x86_64__)

// Pushes the callee-saved registers, stores the stack pointer in *from and continues on the stack `to`.
extern "C" void patch_host_switch(void** from, void* to);
asm(R"(
.text
.type patch_host_switch, @function
patch_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size patch_host_switch, .-patch_host_switch
)");

class Fiber {
 public:
  // `entry` must never return.
  void start(uint8_t* stack, void (*entry)()) {
    auto* top = reinterpret_cast<uint64_t*>(stack + StackPool::kStackBytes);
    *--top = 0;  // keeps the stack 16-byte aligned at entry, as after a call
    *--top = reinterpret_cast<uint64_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    saved_ = top;
  }
  void enter() { patch_host_switch(&returns_to_, saved_); }
  void leave() { patch_host_switch(&saved_, returns_to_); }

 private:
  void* saved_ = nullptr;
  void* returns_to_ = nullptr;
};

#else

class Fiber {
 public:
  void start(uint8_t* stack, void (*entry)()) {
    getcontext(&self_);
    self_.uc_stack.ss_sp = stack;
    self_.uc_stack.ss_size = StackPool::kStackBytes;
    self_.uc_link = nullptr;
    makecontext(&self_, entry, 0);
  }
  void enter() { swapcontext(&returns_to_, &self_); }
  void leave() { swapcontext(&self_, &returns_to_); }

 private:
  ucontext_t self_{}, returns_to_{};
};

#endif

}  // namespace patch::host
