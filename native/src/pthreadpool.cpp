// The thread pool that XNNPACK runs on: pthreadpool's interface, implemented anew.
//
// The library that Debian ships lets each worker take part in every operation: an operation ends when every
// worker has been on a CPU, and until then the others spin. Where CPUs are shared (an application beside the
// network, processors emulated on the same CPUs) a single operation then costs a scheduler's time slice,
// milliseconds. Here a worker that is not there is not waited for: whoever has time takes the next tile, and
// an operation ends when all tiles have. Workers without work spin for some microseconds, the gap between two
// operators, and then sleep.
//
// These symbols take the place of libpthreadpool's for libXNNPACK because the dynamic linker searches the
// object that needs a library before that library's own dependencies; pool_is_interposed() checks that it
// did.
#include <pthreadpool.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "thread_pool_checks.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

constexpr int spins_before_sleep = 2'000;  // some tens of microseconds
constexpr int spins_before_yield = 200;

void pause_cpu() {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Treats denormals as zero while it lives, where the flag asks for it and the CPU can.
class DenormalsAreZero {
 public:
  explicit DenormalsAreZero(bool active) : active_(active) {
    if (!active_) return;
#if defined(__SSE__)
    saved_ = _mm_getcsr();
    _mm_setcsr(static_cast<unsigned>(saved_) | 0x8040);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));
#endif
  }
  ~DenormalsAreZero() {
    if (!active_) return;
#if defined(__SSE__)
    _mm_setcsr(static_cast<unsigned>(saved_));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(saved_));
#endif
  }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  const bool active_;
  uint64_t saved_ = 0;
};

struct Job {
  void (*run)(const void* body, size_t tile) = nullptr;
  const void* body = nullptr;
  bool denormals_are_zero = false;
};

thread_local uint64_t calls = 0;
/// 0 for whoever calls a parallel function, 1 and up for the pool's workers.
thread_local size_t worker_index = 0;

}  // namespace

// libcpuinfo's, on which libXNNPACK depends where it has kernels for microarchitectures; elsewhere it may be
// absent.
extern "C" __attribute__((weak)) uint32_t cpuinfo_get_current_uarch_index();

struct pthreadpool {
 public:
  explicit pthreadpool(size_t threads) {
    try {
      for (size_t i = 1; i < threads; ++i) {
        workers_.emplace_back([this, i] {
          worker_index = i;
          work();
        });
      }
    } catch (...) {
      stop();
      throw;
    }
  }
  ~pthreadpool() { stop(); }

  size_t threads() const { return workers_.size() + 1; }

  void run(const Job& job, size_t tiles) {
    const std::lock_guard one_at_a_time(jobs_);
    job_ = job;
    unfinished_.store(static_cast<uint32_t>(tiles), std::memory_order_relaxed);
    const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(epoch << 32 | tiles);
    if (sleepers_.load() > 0) {
      { const std::lock_guard lock(mutex_); }
      wake_.notify_all();
    }
    take_tiles();
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spins)
      spins < spins_before_yield ? pause_cpu() : std::this_thread::yield();
  }

 private:
  // The number of the job and how many of its tiles nobody took yet: a tile can only be taken from the job
  // that was seen, and the job cannot end before a tile that was taken has.
  static uint32_t tiles_left(uint64_t state) { return static_cast<uint32_t>(state); }

  bool take_tiles() {
    bool took = false;
    uint64_t state = state_.load();
    while (tiles_left(state) > 0) {
      if (!state_.compare_exchange_weak(state, state - 1)) continue;
      took = true;
      {
        const DenormalsAreZero mode(job_.denormals_are_zero);
        job_.run(job_.body, tiles_left(state) - 1);
      }
      unfinished_.fetch_sub(1, std::memory_order_release);
      state = state_.load();
    }
    return took;
  }

  void work() {
    for (int spins = 0;; ++spins) {
      if (take_tiles()) spins = 0;
      if (spins < spins_before_sleep) {
        pause_cpu();
        continue;
      }
      std::unique_lock lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, [&] { return stopped_ || tiles_left(state_.load()) > 0; });
      --sleepers_;
      if (stopped_) return;
      spins = 0;
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint32_t> unfinished_{0};
  alignas(64) Job job_;
  std::mutex jobs_;
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::vector<std::thread> workers_;
};

namespace {

template <typename Body>
void run_tiles(pthreadpool* pool, size_t tiles, uint32_t flags, const Body& body) {
  ++calls;
  const bool denormals_are_zero = (flags & PTHREADPOOL_FLAG_DISABLE_DENORMALS) != 0;
  // A count beyond 32 bits does not fit the state; such a job would not end in a human's time anyway.
  if (!pool || pool->threads() == 1 || tiles <= 1 || tiles > UINT32_MAX) {
    const DenormalsAreZero mode(denormals_are_zero);
    for (size_t tile = 0; tile < tiles; ++tile) body(tile);
    return;
  }
  const auto call = [](const void* erased, size_t tile) { (*static_cast<const Body*>(erased))(tile); };
  pool->run({call, &body, denormals_are_zero}, tiles);
}

/// The arguments that the functions `_with_uarch` and `_with_thread` give a task before its range.
struct Uarch {
  uint32_t usual, highest;

  uint32_t operator()() const {
    if (!cpuinfo_get_current_uarch_index) return usual;
    const uint32_t index = cpuinfo_get_current_uarch_index();
    return index <= highest ? index : usual;
  }
};
struct Thread {
  size_t operator()() const { return worker_index; }
};

template <typename Task, size_t... Dimension, size_t... TiledDimension, typename... Leading>
void call(Task task, void* context, const size_t* start, const size_t* size,
          std::index_sequence<Dimension...>, std::index_sequence<TiledDimension...>, Leading... leading) {
  task(context, leading()..., start[Dimension]..., size[TiledDimension]...);
}

/// Calls task(context, leading()..., start of each dimension..., size of each of the last `Tiled`
/// dimensions...).
template <size_t Dimensions, size_t Tiled, typename Task, typename... Leading>
void parallelize(pthreadpool* pool, Task task, void* context, const std::array<size_t, Dimensions>& range,
                 const std::array<size_t, Tiled>& tile, uint32_t flags, Leading... leading) {
  std::array<size_t, Dimensions> step, count;
  size_t tiles = 1;
  for (size_t d = 0; d < Dimensions; ++d) {
    step[d] = 1;
    if constexpr (Tiled > 0)
      if (d >= Dimensions - Tiled) step[d] = tile[d - (Dimensions - Tiled)];
    count[d] = range[d] / step[d] + (range[d] % step[d] != 0);
    tiles *= count[d];
  }
  run_tiles(pool, tiles, flags, [&](size_t index) {
    std::array<size_t, Dimensions> start{};
    std::array<size_t, Tiled + 1> size{};  // one more, since there is no empty array to point to
    for (size_t d = Dimensions; d-- > 0; index /= count[d]) {
      start[d] = index % count[d] * step[d];
      if (d >= Dimensions - Tiled) size[d - (Dimensions - Tiled)] = std::min(step[d], range[d] - start[d]);
    }
    call(task, context, start.data(), size.data(), std::make_index_sequence<Dimensions>(),
         std::make_index_sequence<Tiled>(), leading...);
  });
}

}  // namespace

#define PIQI_EXPORT extern "C" __attribute__((visibility("default")))

PIQI_EXPORT pthreadpool_t pthreadpool_create(size_t threads) {
  try {
    return new pthreadpool(threads != 0 ? threads : std::max(1u, std::thread::hardware_concurrency()));
  } catch (const std::system_error&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

PIQI_EXPORT void pthreadpool_destroy(pthreadpool_t pool) {
  delete pool;
}

PIQI_EXPORT size_t pthreadpool_get_threads_count(pthreadpool_t pool) {
  return pool ? pool->threads() : 1;
}

PIQI_EXPORT void pthreadpool_parallelize_1d(pthreadpool_t pool, pthreadpool_task_1d_t task, void* context,
                                            size_t range, uint32_t flags) {
  parallelize<1, 0>(pool, task, context, {range}, {}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_1d_tile_1d(pthreadpool_t pool, pthreadpool_task_1d_tile_1d_t task,
                                                    void* context, size_t range, size_t tile,
                                                    uint32_t flags) {
  parallelize<1, 1>(pool, task, context, {range}, {tile}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_2d(pthreadpool_t pool, pthreadpool_task_2d_t task, void* context,
                                            size_t i, size_t j, uint32_t flags) {
  parallelize<2, 0>(pool, task, context, {i, j}, {}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_2d_tile_1d(pthreadpool_t pool, pthreadpool_task_2d_tile_1d_t task,
                                                    void* context, size_t i, size_t j, size_t tile_j,
                                                    uint32_t flags) {
  parallelize<2, 1>(pool, task, context, {i, j}, {tile_j}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_2d_tile_2d(pthreadpool_t pool, pthreadpool_task_2d_tile_2d_t task,
                                                    void* context, size_t i, size_t j, size_t tile_i,
                                                    size_t tile_j, uint32_t flags) {
  parallelize<2, 2>(pool, task, context, {i, j}, {tile_i, tile_j}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_3d(pthreadpool_t pool, pthreadpool_task_3d_t task, void* context,
                                            size_t i, size_t j, size_t k, uint32_t flags) {
  parallelize<3, 0>(pool, task, context, {i, j, k}, {}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_2d(pthreadpool_t pool, pthreadpool_task_3d_tile_2d_t task,
                                                    void* context, size_t i, size_t j, size_t k,
                                                    size_t tile_j, size_t tile_k, uint32_t flags) {
  parallelize<3, 2>(pool, task, context, {i, j, k}, {tile_j, tile_k}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_4d(pthreadpool_t pool, pthreadpool_task_4d_t task, void* context,
                                            size_t i, size_t j, size_t k, size_t l, uint32_t flags) {
  parallelize<4, 0>(pool, task, context, {i, j, k, l}, {}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_4d_tile_2d(pthreadpool_t pool, pthreadpool_task_4d_tile_2d_t task,
                                                    void* context, size_t i, size_t j, size_t k, size_t l,
                                                    size_t tile_k, size_t tile_l, uint32_t flags) {
  parallelize<4, 2>(pool, task, context, {i, j, k, l}, {tile_k, tile_l}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_5d(pthreadpool_t pool, pthreadpool_task_5d_t task, void* context,
                                            size_t i, size_t j, size_t k, size_t l, size_t m,
                                            uint32_t flags) {
  parallelize<5, 0>(pool, task, context, {i, j, k, l, m}, {}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_5d_tile_2d(pthreadpool_t pool, pthreadpool_task_5d_tile_2d_t task,
                                                    void* context, size_t i, size_t j, size_t k, size_t l,
                                                    size_t m, size_t tile_l, size_t tile_m, uint32_t flags) {
  parallelize<5, 2>(pool, task, context, {i, j, k, l, m}, {tile_l, tile_m}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_6d_tile_2d(pthreadpool_t pool, pthreadpool_task_6d_tile_2d_t task,
                                                    void* context, size_t i, size_t j, size_t k, size_t l,
                                                    size_t m, size_t n, size_t tile_m, size_t tile_n,
                                                    uint32_t flags) {
  parallelize<6, 2>(pool, task, context, {i, j, k, l, m, n}, {tile_m, tile_n}, flags);
}

// With the index of the thread, of the CPU's microarchitecture, or both: types are spelt out, since headers
// before 2024 lack some.

PIQI_EXPORT void pthreadpool_parallelize_1d_with_thread(pthreadpool_t pool,
                                                        void (*task)(void*, size_t, size_t), void* context,
                                                        size_t range, uint32_t flags) {
  parallelize<1, 0>(pool, task, context, {range}, {}, flags, Thread{});
}

PIQI_EXPORT void pthreadpool_parallelize_2d_with_thread(pthreadpool_t pool,
                                                        void (*task)(void*, size_t, size_t, size_t),
                                                        void* context, size_t i, size_t j, uint32_t flags) {
  parallelize<2, 0>(pool, task, context, {i, j}, {}, flags, Thread{});
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_1d(pthreadpool_t pool,
                                                    void (*task)(void*, size_t, size_t, size_t, size_t),
                                                    void* context, size_t i, size_t j, size_t k,
                                                    size_t tile_k, uint32_t flags) {
  parallelize<3, 1>(pool, task, context, {i, j, k}, {tile_k}, flags);
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_1d_with_thread(
    pthreadpool_t pool, void (*task)(void*, size_t, size_t, size_t, size_t, size_t), void* context, size_t i,
    size_t j, size_t k, size_t tile_k, uint32_t flags) {
  parallelize<3, 1>(pool, task, context, {i, j, k}, {tile_k}, flags, Thread{});
}

PIQI_EXPORT void pthreadpool_parallelize_2d_tile_1d_with_uarch(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t), void* context, uint32_t usual,
    uint32_t highest, size_t i, size_t j, size_t tile_j, uint32_t flags) {
  parallelize<2, 1>(pool, task, context, {i, j}, {tile_j}, flags, Uarch{usual, highest});
}

PIQI_EXPORT void pthreadpool_parallelize_2d_tile_2d_with_uarch(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t, size_t), void* context,
    uint32_t usual, uint32_t highest, size_t i, size_t j, size_t tile_i, size_t tile_j, uint32_t flags) {
  parallelize<2, 2>(pool, task, context, {i, j}, {tile_i, tile_j}, flags, Uarch{usual, highest});
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_1d_with_uarch(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t, size_t), void* context,
    uint32_t usual, uint32_t highest, size_t i, size_t j, size_t k, size_t tile_k, uint32_t flags) {
  parallelize<3, 1>(pool, task, context, {i, j, k}, {tile_k}, flags, Uarch{usual, highest});
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_1d_with_uarch_with_thread(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t, size_t, size_t), void* context,
    uint32_t usual, uint32_t highest, size_t i, size_t j, size_t k, size_t tile_k, uint32_t flags) {
  parallelize<3, 1>(pool, task, context, {i, j, k}, {tile_k}, flags, Uarch{usual, highest}, Thread{});
}

PIQI_EXPORT void pthreadpool_parallelize_3d_tile_2d_with_uarch(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t, size_t, size_t), void* context,
    uint32_t usual, uint32_t highest, size_t i, size_t j, size_t k, size_t tile_j, size_t tile_k,
    uint32_t flags) {
  parallelize<3, 2>(pool, task, context, {i, j, k}, {tile_j, tile_k}, flags, Uarch{usual, highest});
}

PIQI_EXPORT void pthreadpool_parallelize_4d_tile_2d_with_uarch(
    pthreadpool_t pool, void (*task)(void*, uint32_t, size_t, size_t, size_t, size_t, size_t, size_t),
    void* context, uint32_t usual, uint32_t highest, size_t i, size_t j, size_t k, size_t l, size_t tile_k,
    size_t tile_l, uint32_t flags) {
  parallelize<4, 2>(pool, task, context, {i, j, k, l}, {tile_k, tile_l}, flags, Uarch{usual, highest});
}

namespace piqi {

uint64_t parallel_calls() {
  return calls;
}

}  // namespace piqi
