// Counts allocations.  A separate file, because GCC 12 warns of a mismatch if it inlines only one of new and
// delete.
#include <cstdlib>
#include <new>

#include "stand_in.h"

namespace stand_in {
namespace {

int inside = 0;
int64_t counted = 0;

}  // namespace

Inside::Inside() { ++inside; }
Inside::~Inside() { --inside; }
void count_allocation() { ++counted; }
int64_t allocations() { return counted; }

}  // namespace stand_in

void* operator new(size_t bytes) {
  if (!stand_in::inside) stand_in::count_allocation();
  void* memory = std::malloc(bytes);
  return memory ? memory : throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
