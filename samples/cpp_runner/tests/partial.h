// An object of an abstract class that implements only some of its functions; calling any other ends the
// program.
//
// TensorRT's interfaces call through classes of some 150 pure functions, and every version has others.  The
// runner calls twenty, so a class derived from them would be long, and compile against one version alone.
// Instead this is a table of functions as the Itanium C++ ABI lays it out (x86-64 and AArch64 Linux): a
// pointer to a virtual function says which entry is its, and a member function is called like a function that
// is given `this` first.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace stand_in {

template <class Interface>
class Partial {
  // Its types follow from the member function's alone, so that a lambda fits.
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
    return words[0] / sizeof(void*);  // that it is virtual, the other word says
#else
    return (words[0] - 1) / sizeof(void*);
#endif
  }

  std::array<void (*)(), 256> table_;
  void (**table_pointer_)() = table_.data();
};

}  // namespace stand_in
