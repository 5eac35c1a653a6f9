// Memory of the emulated device, checked on every access.
//
//   GlobalMemory   tensors of a launch.  Checks bounds, alignment, "written before read", "written once", and
//                  for sums that blocks pass on "written, ordered by a barrier and counted before another
//                  block reads".
//   SharedMemory   of one block.  Checks bounds, alignment and races.  What is not written yet is NaN.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace patch::host {

// Counters that start at 0.  Pages of untouched ones take no memory, which matters: the largest Y has 2^31
// elements.
class Counts {
 public:
  Counts() = default;
  explicit Counts(size_t size)
      : counts_(static_cast<uint8_t*>(std::calloc(std::max<size_t>(size, 1), 1)), &std::free), size_(size) {
    if (!counts_) throw std::bad_alloc();
  }
  size_t size() const { return size_; }
  uint8_t& operator[](size_t i) const { return counts_.get()[i]; }

 private:
  std::shared_ptr<uint8_t> counts_;
  size_t size_ = 0;
};

class GlobalMemory {
 public:
  // kConstant: written before the network runs; kInput: by an earlier launch; kOutput: read by any launch;
  // kWorkspace: by the next launch of the same enqueue; kExchange: written by one block and read by another;
  // kCounter: 0 before and after the launch.
  enum class Use { kConstant, kInput, kOutput, kWorkspace, kExchange, kCounter };

  // `unit`: bytes of one element.  Writes to outputs are counted by element.
  void add(std::string name, const void* begin, size_t bytes, size_t unit, Use use) {
    const auto first = reinterpret_cast<uintptr_t>(begin);
    Region region{std::move(name), first, first + bytes, unit, use, {}, {}};
    if (is_written(use)) region.writes = Counts(bytes / unit);
    if (use == Use::kExchange) region.owners.assign(bytes / unit, {});
    regions_.push_back(std::move(region));
  }

  std::string read(const void* p, size_t bytes) {
    const Region* r = find(p, bytes);
    if (!r) return outside("read", p, bytes);
    if (r->use == Use::kConstant || r->use == Use::kInput) return misaligned(*r, p, bytes);
    for (size_t i = 0; i < bytes / r->unit; ++i)
      if (r->writes[offset(*r, p) / r->unit + i] == 0) return "read of " + r->name + " before it is written";
    return misaligned(*r, p, bytes);
  }

  bool has(Use use) const {
    return std::any_of(regions_.begin(), regions_.end(), [use](const Region& r) { return r.use == use; });
  }
  bool constant(const void* p, size_t bytes) {
    const Region* r = find(p, bytes);
    return r && r->use == Use::kConstant;
  }

  std::string write(const void* p, size_t bytes) {
    const Region* r = find(p, bytes);
    if (!r || !is_written(r->use)) return outside("write", p, bytes);
    for (size_t i = 0; i < bytes / r->unit; ++i)
      if (++r->writes[offset(*r, p) / r->unit + i] != 1) return r->name + " element written twice";
    return misaligned(*r, p, bytes);
  }

  // A write by a thread of `block` for other blocks, which may read the elements once the block has counted
  // itself.
  std::string pass(const void* p, size_t bytes, int64_t block) {
    std::string fault = write(p, bytes);
    if (!fault.empty()) return fault;
    Region* r = find(p, bytes);
    if (r->use != Use::kExchange) return "partial sums written to " + r->name;
    for (size_t i = 0; i < bytes / r->unit; ++i)
      r->owners[offset(*r, p) / r->unit + i] = {block, State::kWritten};
    return {};
  }
  // A read of such elements.  `acquired`: the reader has counted its block itself, or passed a barrier
  // since.
  std::string take(const void* p, size_t bytes, int64_t block, bool acquired) {
    std::string fault = read(p, bytes);
    if (!fault.empty()) return fault;
    const Region* r = find(p, bytes);
    if (r->use != Use::kExchange) return "partial sums read from " + r->name;
    for (size_t i = 0; i < bytes / r->unit; ++i) {
      const Owner& o = r->owners[offset(*r, p) / r->unit + i];
      if (o.block == block) continue;
      if (o.state != State::kCounted) return "race: partial sums read before their block has counted itself";
      if (!acquired) return "race: partial sums read without a barrier after counting";
    }
    return {};
  }
  // The thread that wrote the elements counts the block, or has passed a barrier since.
  void order(const void* p, size_t bytes) { advance(p, bytes, State::kOrdered); }
  // Returns false if the elements are not ordered before the count.
  bool count(const void* p, size_t bytes) { return advance(p, bytes, State::kCounted); }
  int32_t* counter(int32_t* p) {
    const Region* r = find(p, sizeof(int32_t));
    return r && r->use == Use::kCounter ? p : nullptr;
  }

  // Returns an error if a counter is not 0.
  std::string counters_reset() const {
    for (const Region& r : regions_)
      if (r.use == Use::kCounter)
        for (uintptr_t at = r.begin; at != r.end; at += sizeof(int32_t))
          // The region came as a pointer.  NOLINTNEXTLINE(performance-no-int-to-ptr)
          if (*reinterpret_cast<const int32_t*>(at)) return r.name + " is not 0 after the launch";
    return {};
  }

  // Returns an error if an element of this output was never written.  `write` checks that none is written
  // twice.
  std::string complete(const std::string& name) const {
    for (const Region& r : regions_) {
      if (r.name != name) continue;
      for (size_t i = 0; i < r.writes.size(); ++i)
        if (r.writes[i] != 1) return name + " element " + std::to_string(i) + " never written";
    }
    return {};
  }

 private:
  enum class State : uint8_t { kWritten, kOrdered, kCounted };
  struct Owner {
    int64_t block = -1;
    State state = State::kWritten;
  };
  struct Region {
    std::string name;
    uintptr_t begin, end;
    size_t unit;
    Use use;
    Counts writes;
    std::vector<Owner> owners;
  };

  bool advance(const void* p, size_t bytes, State to) {
    Region* r = find(p, bytes);
    for (size_t i = 0; i < bytes / r->unit; ++i) {
      State& state = r->owners[offset(*r, p) / r->unit + i].state;
      if (to == State::kCounted && state == State::kWritten) return false;
      if (state < to) state = to;
    }
    return true;
  }

  static bool is_written(Use use) {
    return use == Use::kOutput || use == Use::kWorkspace || use == Use::kExchange;
  }
  static size_t offset(const Region& r, const void* p) { return reinterpret_cast<uintptr_t>(p) - r.begin; }
  static std::string misaligned(const Region& r, const void* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes == 0) return {};
    return "misaligned access of " + std::to_string(bytes) + " bytes to " + r.name;
  }
  std::string outside(const char* what, const void* p, size_t bytes) const {
    std::string near;
    for (const Region& r : regions_)
      if (reinterpret_cast<uintptr_t>(p) >= r.begin && reinterpret_cast<uintptr_t>(p) <= r.end + 65536)
        near = ", " + std::to_string(static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) - r.end)) +
               " bytes from the end of " + r.name;
    return std::string(what) + " of " + std::to_string(bytes) + " bytes outside of every tensor" + near;
  }
  Region* find(const void* p, size_t bytes) {
    const auto a = reinterpret_cast<uintptr_t>(p);
    for (Region& r : regions_)
      if (a >= r.begin && a + bytes <= r.end) return &r;
    return nullptr;
  }

  std::vector<Region> regions_;
};

// Records for each 4-byte word the last threads that read and wrote it, and the epochs (number of barriers
// passed).  If two threads touch a word in one epoch and one of them writes, that is a race, in whatever
// order the emulation ran them.  A word that cp.async fills is `pending` from issue to wait_group; no thread
// may touch it.
class SharedMemory {
 public:
  static constexpr uint16_t kMany = 0xffff;  // more than one reader, or a whole warp

  void reset(size_t bytes) {
    storage_.assign(bytes + 128, 0xff);  // 0xffff is a NaN in fp16 and bf16
    base_ = storage_.data() + (128 - reinterpret_cast<uintptr_t>(storage_.data()) % 128) % 128;
    bytes_ = bytes;
    words_.assign(bytes / 4, Word{});
    epoch_ = 1;
  }
  void pass_barrier() { ++epoch_; }
  uint8_t* data() { return base_; }

  const char* read(const void* p, size_t bytes, uint16_t reader) {
    if (const char* e = address(p, bytes)) return e;
    for (Word *w = word(p), *end = w + bytes / 4; w != end; ++w) {
      if (w->pending) return "shared memory read while cp.async is filling it (missing wait)";
      if (w->write_epoch == epoch_ && w->writer != reader)
        return "race: shared memory read in the epoch another thread wrote it (missing barrier)";
      w->reader = w->read_epoch == epoch_ && w->reader != reader ? kMany : reader;
      w->read_epoch = epoch_;
    }
    return nullptr;
  }

  const char* write(const void* p, size_t bytes, uint16_t writer, bool pending) {
    if (const char* e = address(p, bytes)) return e;
    for (Word *w = word(p), *end = w + bytes / 4; w != end; ++w) {
      if (w->pending) return "shared memory written while cp.async is filling it";
      if (w->write_epoch == epoch_ && w->writer != writer)
        return "race: two threads write the same shared memory in one epoch";
      if (w->read_epoch == epoch_ && w->reader != writer)
        return "race: shared memory written in the epoch another thread reads it (missing barrier)";
      w->write_epoch = epoch_, w->writer = writer, w->pending = pending;
    }
    return nullptr;
  }

  // Ends `pending`, after the wait of the thread that issued the cp.async.  Others may read from the next
  // epoch on.
  void land(const void* p, size_t bytes) {
    for (Word *w = word(p), *end = w + bytes / 4; w != end; ++w) w->pending = false, w->write_epoch = epoch_;
  }

 private:
  struct Word {
    uint32_t write_epoch = 0, read_epoch = 0;
    uint16_t writer = kMany, reader = kMany;
    bool pending = false;
  };

  const char* address(const void* p, size_t bytes) const {
    const auto* a = static_cast<const uint8_t*>(p);
    if (a < base_ || a + bytes > base_ + bytes_) return "shared memory access out of bounds";
    if (static_cast<size_t>(a - base_) % bytes) return "misaligned shared memory access";
    return nullptr;
  }
  Word* word(const void* p) { return words_.data() + (static_cast<const uint8_t*>(p) - base_) / 4; }

  std::vector<uint8_t> storage_;
  uint8_t* base_ = nullptr;
  size_t bytes_ = 0;
  std::vector<Word> words_;
  uint32_t epoch_ = 1;
};

}  // namespace patch::host
