// What the stand-ins of CUDA and TensorRT share: functions of stand_in_cuda.cpp, and a class for interfaces.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

namespace stand_in {

// True if STAND_IN_FAIL names this call of a function: "cudaMalloc:2" is its second call.
bool fails(const std::string& function);
// True if these bytes lie within one allocation.
bool covered(const void* begin, size_t bytes);
// Queues `work`, which runs when the program waits for the stream, and not before.
void enqueue(std::function<void()> work);
void advance_clock(float milliseconds);  // the clock that events read

// An object of an abstract class with only some of its functions implemented.  Calling any other function
// ends the program.
//
// TensorRT's interfaces call through classes with some 150 pure virtual functions, which differ between
// versions. The runner calls twenty of them.  A derived class would be long, and would compile with one
// version only.  This class builds a virtual function table instead, in the layout of the Itanium C++ ABI
// (x86-64 and AArch64 Linux).  A pointer to a virtual member function contains its index in the table, and a
// member function is called like a function whose first argument is `this`.
template <class Interface>
class Partial {
  // A nested type, so that its parameters are deduced from the member function only and a lambda can be
  // passed.
  template <class R, class... A>
  struct Free {
    using type = R (*)(Interface*, A...);
  };
  template <class R, class... A>
  using Function = typename Free<R, A...>::type;

 public:
  Partial() { table_.fill(&unexpected); }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  template <class R, class... A>
  void set(R (Interface::*which)(A...) noexcept, Function<R, A...> function) {
    table_.at(entry(&which, sizeof which)) = reinterpret_cast<void (*)()>(function);
  }
  template <class R, class... A>
  void set(R (Interface::*which)(A...) const noexcept, Function<R, A...> function) {
    table_.at(entry(&which, sizeof which)) = reinterpret_cast<void (*)()>(function);
  }

  Interface* get() { return reinterpret_cast<Interface*>(&table_pointer_); }

 private:
  static void unexpected() {
    std::fputs("stand-in: the runner calls a function of TensorRT that the stand-in lacks\n", stderr);
    std::abort();
  }

  static size_t entry(const void* member, size_t bytes) {
    std::uintptr_t words[2];
    static_assert(sizeof words == sizeof(void (Partial::*)()));
    std::memcpy(words, member, bytes);
#ifdef __aarch64__
    return words[0] / sizeof(void*);  // here the other word marks a virtual function
#else
    return (words[0] - 1) / sizeof(void*);
#endif
  }

  std::array<void (*)(), 256> table_;
  void (**table_pointer_)() = table_.data();
};

}  // namespace stand_in
