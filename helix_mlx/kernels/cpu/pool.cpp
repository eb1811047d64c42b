#include "pool.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace helix {
namespace {

// About 20 microseconds: as long as the small operations between two products take, and too short to be noticed.
constexpr int kSpins = 400;
constexpr int kMostThreads = 256;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// One job at a time. `ticket_` holds the job's number in its upper half and the chunks nobody has taken in its lower
// one; the job's fields are written only while the lower half is zero, so whoever takes a chunk has read them whole.
class Pool {
 public:
  void run(int chunks, ChunkFunction function, void* context, int threads) {
    if (chunks <= 1 || threads <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
      for (int c = 0; c < chunks; c++) function(context, c);
      return;
    }
    start_threads(std::min(threads, kMostThreads) - 1);
    function_.store(function, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    chunks_.store(chunks, std::memory_order_relaxed);
    workers_.store(threads - 1, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(number << 32 | static_cast<uint32_t>(chunks), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
    while (take_chunk()) {
    }
    wait_until_done(chunks);
    busy_.store(false, std::memory_order_release);
  }

 private:
  bool take_chunk() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(ticket) > 0) {
      const ChunkFunction function = function_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const int chunks = chunks_.load(std::memory_order_relaxed);
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      function(context, chunks - static_cast<int>(static_cast<uint32_t>(ticket)));
      if (done_.fetch_add(1, std::memory_order_seq_cst) + 1 == chunks && caller_sleeps_.load(std::memory_order_seq_cst)) {
        { std::lock_guard<std::mutex> lock(mutex_); }
        finished_.notify_all();
      }
      return true;
    }
    return false;
  }

  void wait_until_done(int chunks) {
    for (int i = 0; i < kSpins; i++) {
      if (done_.load(std::memory_order_acquire) == chunks) return;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    finished_.wait(lock, [&] { return done_.load(std::memory_order_seq_cst) == chunks; });
    caller_sleeps_.store(false, std::memory_order_relaxed);
  }

  bool has_work(int id) const {
    return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst)) > 0 &&
        id < workers_.load(std::memory_order_relaxed);
  }

  void work(int id) {
    for (;;) {
      for (int i = 0; i < kSpins; i++) {
        while (has_work(id) && take_chunk()) i = 0;
        relax();
      }
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return has_work(id); });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  void start_threads(int count) {
    while (started_ < count) {
      try {
        std::thread(&Pool::work, this, started_).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had: those there are share the work
      }
      started_++;
    }
  }

  std::atomic<uint64_t> ticket_{0};
  std::atomic<ChunkFunction> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> chunks_{0}, workers_{0};
  alignas(64) std::atomic<int> done_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> busy_{false}, caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  int started_ = 0;
};

std::atomic<Pool*> current{nullptr};
std::atomic<int> wanted{0};
std::mutex making;
Pool* before_fork = nullptr;  // keeps what a child cannot free reachable

void forget_threads() {
  before_fork = current.load(std::memory_order_relaxed);
  current.store(nullptr, std::memory_order_relaxed);
  making.unlock();
}

// Never freed: its threads outlive every static object.
Pool& pool() {
  Pool* found = current.load(std::memory_order_acquire);
  if (found) return *found;
  // A child of fork has none of its parent's threads, so it starts over.
  static const int registered = pthread_atfork([] { making.lock(); }, [] { making.unlock(); }, forget_threads);
  (void)registered;
  std::lock_guard<std::mutex> lock(making);
  found = current.load(std::memory_order_relaxed);
  if (!found) current.store(found = new Pool, std::memory_order_release);
  return *found;
}

}  // namespace

int threads() {
  int count = wanted.load(std::memory_order_relaxed);
  if (count == 0) wanted.store(count = usable_cores(), std::memory_order_relaxed);
  return count;
}

void set_threads(int count) { wanted.store(std::max(0, count), std::memory_order_relaxed); }

void run_chunks(int chunks, ChunkFunction function, void* context) {
  pool().run(chunks, function, context, threads());
}

}  // namespace helix
