// The emulated GPU runs blocks of fibers, several blocks at once, in an order drawn from a seed.
//
//   run():  pick a ready warp of any resident block -> run its 32 lanes, each up to its next stop ->
//             all at one collective:  compute it and go on
//             all at the barrier:     wait for the rest of the block
//             all done:               retire the warp
//
// All lanes of a warp must stop at the same barrier or collective (the kernels have no divergent
// collectives). Warps and blocks interleave freely.
#pragma once
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "host/fiber.h"
#include "host/memory.h"

namespace patch::host {

// Time at which the bytes of a cp.async arrive: at its wait_group, at once, or either, drawn per copy.
enum class CopyMode : int32_t { kLazy = 0, kEager = 1, kMixed = 2 };

struct Stats {
  uint64_t mma = 0, mma_sp = 0, ldmatrix = 0, ldmatrix_waves = 0, copies = 0, barriers = 0, switches = 0;
  uint64_t weight_bytes = 0;     // of packed weights, copied to shared memory
  uint64_t requested_bytes = 0;  // of packed weights, asked for in L2
};

struct LaunchShape {
  int64_t blocks = 1;
  int64_t first = 0;  // first block to run
  int threads = 32;
  size_t shared_bytes = 0;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}
  uint32_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 32);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((static_cast<uint64_t>(next()) * n) >> 32); }

 private:
  uint64_t state_;
};

using Collective = void (*)(void* const* lanes);  // one argument struct per lane, each on its fiber's stack

class Machine {
 public:
  static constexpr int kResidentBlocks = 3;
  static constexpr int kMaxThreads = 256;

  GlobalMemory global;
  Stats stats;

  // Runs a kernel.  Returns the first fault, or "".
  std::string run(const LaunchShape& shape, CopyMode mode, uint64_t seed,
                  const std::function<void()>& kernel) {
    current_machine() = this;
    shape_ = shape, mode_ = mode, random_ = Random(seed), kernel_ = &kernel, error_.clear();
    if (shape.threads % 32 || shape.threads > kMaxThreads) return "unsupported block size";
    std::vector<int64_t> order(shape.blocks - shape.first);
    std::iota(order.begin(), order.end(), shape.first);
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[random_.below(static_cast<uint32_t>(i))]);
    size_t next = 0;
    ready_.clear();
    for (auto& b : blocks_) {
      if (!b) b = std::make_unique<Block>();
      if (next < order.size()) start(*b, order[next++]);
    }
    while (!ready_.empty() && error_.empty()) {
      const size_t pick = random_.below(static_cast<uint32_t>(ready_.size()));
      Block& b = *ready_[pick].block;
      if (run_warp(b, ready_[pick].warp)) continue;
      ready_[pick] = ready_.back();
      ready_.pop_back();
      settle(b);
      if (b.live == 0 && error_.empty() && next < order.size()) start(b, order[next++]);
    }
    for (auto& b : blocks_)
      if (error_.empty() && b->live) error_ = "deadlock: a barrier that not all threads of the block reach";
    for (auto& b : blocks_) b->live = 0;
    current_machine() = nullptr;
    return error_;
  }

  // --- called from fibers ---
  static Machine& get() { return *current_machine(); }
  int thread() const { return thread_; }
  int64_t block() const { return block_->id; }
  uint8_t* shared() { return block_->shared.data(); }

  void barrier() { stop(Stop::kBarrier); }
  bool barrier_any(bool vote) {
    block_->vote |= vote;
    barrier();
    return block_->voted;
  }
  void collective(Collective compute, void* lane) {
    Lane& me = block_->lanes[thread_];
    me.compute = compute, me.argument = lane;
    stop(Stop::kCollective);
  }
  // Ends the launch; the fiber never runs again.
  void fail(const std::string& what) {
    if (error_.empty())
      error_ = what + " (block " + std::to_string(block_->id) + ", thread " + std::to_string(thread_) + ")";
    for (;;) stop(Stop::kFailed);
  }
  void check(const std::string& fault) {
    if (!fault.empty()) fail(fault);
  }
  void check(const char* fault) {
    if (fault) fail(fault);
  }

  // Earlier launches have ended, for this thread.
  void wait_for_launches() { block_->lanes[thread_].waited = true; }
  // The next launch may begin from here on.  Behind an output it may be any, and may not wait.
  void let_next_launch_begin() {
    if (global.has(GlobalMemory::Use::kOutput)) fail("the next launch begins before an output is written");
  }
  // Checks that the bytes don't depend on earlier launches, before the thread has waited for them.
  void touch(const void* p, size_t bytes) {
    if (!block_->lanes[thread_].waited && !global.constant(p, bytes))
      fail("memory of earlier launches is used without a wait for them");
  }
  std::string read(const void* p, size_t bytes) {
    touch(p, bytes);
    return global.read(p, bytes);
  }
  void request(const void* p, size_t bytes) {
    if (!global.constant(p, bytes)) fail("a request of what are no weights");
    if (bytes == 0 || bytes % 16 || reinterpret_cast<uintptr_t>(p) % 16)
      fail("a request of no whole 16 bytes");
    stats.requested_bytes += bytes;
  }

  void pass_sums(void* to, const void* from, size_t bytes) {
    touch(to, bytes);
    check(global.pass(to, bytes, block_->id));
    std::memcpy(to, from, bytes);
    block_->lanes[thread_].passed.push_back({to, bytes});
  }
  void take_sums(void* to, const void* from, size_t bytes) {
    touch(from, bytes);
    check(global.take(from, bytes, block_->id, block_->lanes[thread_].acquired == block_->arrivals));
    std::memcpy(to, from, bytes);
  }
  // Counts the block's arrival, with release and acquire: the partial sums of this thread, and those that
  // others of the block passed on before its last barrier, count as arrived with it.
  int32_t arrive(int32_t* counter) {
    touch(counter, sizeof(*counter));
    if (!global.counter(counter)) fail("an arrival is counted outside of the counters");
    Lane& me = block_->lanes[thread_];
    order(me);
    for (Lane& lane : block_->lanes) {
      for (const auto& [p, bytes] : lane.passed)
        if (!global.count(p, bytes))
          fail("race: a block counts itself without a barrier behind its partial sums");
      lane.passed.clear();
    }
    me.acquired = ++block_->arrivals;
    return (*counter)++;
  }
  void reset(int32_t* counter) {
    if (!global.counter(counter)) fail("a counter is reset outside of the counters");
    *counter = 0;
  }

  void read_shared(const void* p, size_t bytes) {
    check(block_->shared.read(p, bytes, static_cast<uint16_t>(thread_)));
  }
  void write_shared(const void* p, size_t bytes) {
    check(block_->shared.write(p, bytes, static_cast<uint16_t>(thread_), false));
  }
  // A whole warp reads this row together, so even its own writer needs a barrier first.
  void read_shared_by_warp(const void* p, size_t bytes) {
    check(block_->shared.read(p, bytes, SharedMemory::kMany));
  }

  void copy_async(void* shared, const void* from, int bytes, bool valid) {
    ++stats.copies;
    if (valid) check(read(from, bytes));
    check(block_->shared.write(shared, bytes, static_cast<uint16_t>(thread_), true));
    const Copy copy{shared, from, bytes, valid,
                    mode_ == CopyMode::kEager || (mode_ == CopyMode::kMixed && random_.next() & 1)};
    if (copy.landed)
      perform(copy);
    else
      std::memset(shared, 0xff, bytes);
    block_->lanes[thread_].open.push_back(copy);
  }
  void commit_copies() {
    Lane& me = block_->lanes[thread_];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
  }
  void wait_copies(size_t still_open) {
    Lane& me = block_->lanes[thread_];
    for (; me.groups.size() > still_open; me.groups.pop_front())
      for (const Copy& c : me.groups.front()) {
        if (!c.landed) perform(c);
        block_->shared.land(c.to, c.bytes);
      }
  }

 private:
  enum class Stop { kReady, kBarrier, kCollective, kDone, kFailed };
  struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid, landed;
  };
  struct Lane {
    Fiber fiber;
    Stop stop = Stop::kReady;
    Collective compute = nullptr;
    void* argument = nullptr;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
    std::vector<std::pair<void*, size_t>> passed;  // partial sums written since the block's last arrival
    bool waited = false;                           // for earlier launches
    int acquired = 0;  // block's arrivals before this thread's latest one or barrier
  };
  struct Block {
    int64_t id = 0;
    int live = 0, waiting = 0;  // number of warps
    int arrivals = 0;
    bool vote = false, voted = false;  // for barrier_any
    SharedMemory shared;
    std::vector<Lane> lanes;
    StackPool stacks{kMaxThreads};
  };
  struct Ready {
    Block* block;
    int warp;
  };

  static Machine*& current_machine() {
    static Machine* machine = nullptr;
    return machine;
  }
  static void fiber_main() {
    Machine& m = get();
    (*m.kernel_)();
    for (;;) m.stop(Stop::kDone);
  }
  static void perform(const Copy& c) {
    if (c.valid)
      std::memcpy(c.to, c.from, c.bytes);
    else
      std::memset(c.to, 0, c.bytes);
  }

  void order(const Lane& lane) {
    for (const auto& [p, bytes] : lane.passed) global.order(p, bytes);
  }

  void start(Block& b, int64_t id) {
    b.id = id, b.live = shape_.threads / 32, b.waiting = 0;
    b.arrivals = 0, b.vote = b.voted = false;
    b.shared.reset(shape_.shared_bytes);
    b.lanes.resize(shape_.threads);
    for (int i = 0; i < shape_.threads; ++i) {
      Lane& lane = b.lanes[i];
      lane.stop = Stop::kReady, lane.open.clear(), lane.groups.clear();
      lane.passed.clear(), lane.acquired = 0, lane.waited = false;
      lane.fiber.start(b.stacks[i], fiber_main);
    }
    for (int w = 0; w < b.live; ++w) ready_.push_back({&b, w});
  }

  void stop(Stop why) {
    Lane& me = block_->lanes[thread_];
    me.stop = why;
    ++stats.switches;
    me.fiber.leave();
  }

  // Runs a warp.  Returns true if the warp stays ready, false if it waits or has ended.
  bool run_warp(Block& b, int warp) {
    block_ = &b;
    Lane* lanes = b.lanes.data() + warp * 32;
    for (;;) {
      const int first = static_cast<int>(random_.below(32));
      for (int i = 0; i < 32; ++i) {
        const int lane = (first + i) & 31;
        thread_ = warp * 32 + lane;
        lanes[lane].fiber.enter();
        if (!error_.empty()) return false;
      }
      if (!together(lanes)) return fault("the lanes of a warp diverge at a barrier or collective", warp);
      if (lanes[0].stop == Stop::kDone) return --b.live, finish(lanes, warp);
      if (lanes[0].stop == Stop::kBarrier) return ++b.waiting, false;
      thread_ = warp * 32;
      if (!compute(lanes)) return false;
      if (random_.below(8) == 0) return true;  // let another warp come between
    }
  }

  static bool together(const Lane* lanes) {
    return std::all_of(lanes + 1, lanes + 32, [&](const Lane& l) {
      return l.stop == lanes[0].stop && (l.stop != Stop::kCollective || l.compute == lanes[0].compute);
    });
  }
  // Collectives run outside of any fiber, so a fault in their operands is noted and not thrown.
  bool compute(Lane* lanes) {
    void* arguments[32];
    for (int i = 0; i < 32; ++i) arguments[i] = lanes[i].argument;
    lanes[0].compute(arguments);
    return error_.empty();
  }
  bool finish(const Lane* lanes, int warp) {
    for (int i = 0; i < 32; ++i) {
      // The next launch takes the end of this one for the end of those before it.
      if (!lanes[i].waited) return fault("a thread ends without a wait for earlier launches", warp);
      if (!lanes[i].open.empty()) return fault("cp.async never committed", warp);
      for (const auto& g : lanes[i].groups)
        if (!g.empty()) return fault("cp.async still under way when the thread ends", warp);
    }
    return false;
  }
  bool fault(const char* what, int warp) {
    error_ =
        std::string(what) + " (block " + std::to_string(block_->id) + ", warp " + std::to_string(warp) + ")";
    return false;
  }
  // Opens the barrier if every warp of the block waits at it.
  void settle(Block& b) {
    if (b.waiting == 0 || !error_.empty()) return;
    if (b.live < shape_.threads / 32) {
      error_ = "a barrier is reached after a warp of the block has ended";
      return;
    }
    if (b.waiting < b.live) return;
    b.waiting = 0;
    b.voted = b.vote, b.vote = false;
    b.shared.pass_barrier();
    for (Lane& lane : b.lanes) order(lane), lane.acquired = b.arrivals;
    ++stats.barriers;
    for (int w = 0; w < b.live; ++w) ready_.push_back({&b, w});
  }

 public:
  // Records a fault found by a collective.
  void note_fault(const std::string& what) {
    if (error_.empty()) error_ = what + " (block " + std::to_string(block_->id) + ")";
  }

 private:
  LaunchShape shape_;
  CopyMode mode_ = CopyMode::kLazy;
  Random random_{1};
  const std::function<void()>* kernel_ = nullptr;
  std::string error_;
  std::vector<Ready> ready_;
  std::unique_ptr<Block> blocks_[kResidentBlocks];
  Block* block_ = nullptr;
  int thread_ = 0;
};

}  // namespace patch::host
