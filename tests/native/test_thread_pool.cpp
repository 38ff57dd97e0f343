// The pthreadpool interface that XNNPACK runs on: every tile once, whoever works and however often.
#include <doctest/doctest.h>
#include <pthreadpool.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "network.hpp"
#include "piqi/thread_pool.hpp"
#include "thread_pool_checks.hpp"

// Headers before 2024 lack these.
extern "C" {
void pthreadpool_parallelize_1d_with_thread(pthreadpool_t, void (*)(void*, size_t, size_t), void*, size_t,
                                            uint32_t);
void pthreadpool_parallelize_2d_with_thread(pthreadpool_t, void (*)(void*, size_t, size_t, size_t), void*,
                                            size_t, size_t, uint32_t);
void pthreadpool_parallelize_3d_tile_1d(pthreadpool_t, void (*)(void*, size_t, size_t, size_t, size_t), void*,
                                        size_t, size_t, size_t, size_t, uint32_t);
void pthreadpool_parallelize_3d_tile_1d_with_uarch_with_thread(
    pthreadpool_t, void (*)(void*, uint32_t, size_t, size_t, size_t, size_t, size_t), void*, uint32_t,
    uint32_t, size_t, size_t, size_t, size_t, uint32_t);
}

namespace {

constexpr uint32_t highest = 1;  // index of a microarchitecture

using Pool = std::unique_ptr<pthreadpool, decltype(&pthreadpool_destroy)>;

Pool make_pool(size_t threads) {
  return {pthreadpool_create(threads), &pthreadpool_destroy};
}

/// Counts visits of a six-dimensional box; dimensions that are not used have extent 1.
struct Box {
  size_t extent[6] = {1, 1, 1, 1, 1, 1};
  std::vector<std::atomic<int>> visits;

  explicit Box(std::mt19937& random, size_t dimensions) {
    size_t total = 1;
    for (size_t d = 0; d < dimensions; ++d) {
      extent[d] = 1 + random() % 6;
      total *= extent[d];
    }
    visits = std::vector<std::atomic<int>>(total);
  }
  void visit(size_t a, size_t b = 0, size_t c = 0, size_t d = 0, size_t e = 0, size_t f = 0) {
    size_t index = a;
    const size_t rest[] = {b, c, d, e, f};
    for (size_t i = 0; i < 5; ++i) index = index * extent[i + 1] + rest[i];
    ++visits.at(index);
  }
  void check() const {
    for (const auto& count : visits) CHECK(count == 1);
  }
};

}  // namespace

TEST_CASE("every function visits every index once") {
  std::mt19937 random(1);
  for (size_t threads : {1, 2, 3, 5}) {
    const Pool pool = make_pool(threads);
    REQUIRE(pthreadpool_get_threads_count(pool.get()) == threads);
    for (int round = 0; round < 20; ++round) {
      const size_t s = 1 + random() % 7, t = 1 + random() % 7;
      const auto box = [&](size_t dimensions) { return Box(random, dimensions); };
      {
        Box b = box(1);
        pthreadpool_parallelize_1d(
            pool.get(), [](void* c, size_t i) { static_cast<Box*>(c)->visit(i); }, &b, b.extent[0], 0);
        b.check();
      }
      {
        Box b = box(1);
        pthreadpool_parallelize_1d_tile_1d(
            pool.get(),
            [](void* c, size_t i, size_t n) {
              for (size_t x = 0; x < n; ++x) static_cast<Box*>(c)->visit(i + x);
            },
            &b, b.extent[0], s, 0);
        b.check();
      }
      {
        Box b = box(2);
        pthreadpool_parallelize_2d(
            pool.get(), [](void* c, size_t i, size_t j) { static_cast<Box*>(c)->visit(i, j); }, &b,
            b.extent[0], b.extent[1], 0);
        b.check();
      }
      {
        Box b = box(2);
        pthreadpool_parallelize_2d_tile_1d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t n) {
              for (size_t x = 0; x < n; ++x) static_cast<Box*>(c)->visit(i, j + x);
            },
            &b, b.extent[0], b.extent[1], s, 0);
        b.check();
      }
      {
        Box b = box(2);
        pthreadpool_parallelize_2d_tile_2d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t m, size_t n) {
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i + x, j + y);
            },
            &b, b.extent[0], b.extent[1], s, t, 0);
        b.check();
      }
      {
        Box b = box(3);
        pthreadpool_parallelize_3d(
            pool.get(), [](void* c, size_t i, size_t j, size_t k) { static_cast<Box*>(c)->visit(i, j, k); },
            &b, b.extent[0], b.extent[1], b.extent[2], 0);
        b.check();
      }
      {
        Box b = box(3);
        pthreadpool_parallelize_3d_tile_2d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t m, size_t n) {
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i, j + x, k + y);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], s, t, 0);
        b.check();
      }
      {
        Box b = box(4);
        pthreadpool_parallelize_4d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t l) { static_cast<Box*>(c)->visit(i, j, k, l); },
            &b, b.extent[0], b.extent[1], b.extent[2], b.extent[3], 0);
        b.check();
      }
      {
        Box b = box(4);
        pthreadpool_parallelize_4d_tile_2d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t l, size_t m, size_t n) {
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i, j, k + x, l + y);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], b.extent[3], s, t, 0);
        b.check();
      }
      {
        Box b = box(5);
        pthreadpool_parallelize_5d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t l, size_t m) {
              static_cast<Box*>(c)->visit(i, j, k, l, m);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], b.extent[3], b.extent[4], 0);
        b.check();
      }
      {
        Box b = box(5);
        pthreadpool_parallelize_5d_tile_2d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t l, size_t m, size_t p, size_t q) {
              for (size_t x = 0; x < p; ++x)
                for (size_t y = 0; y < q; ++y) static_cast<Box*>(c)->visit(i, j, k, l + x, m + y);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], b.extent[3], b.extent[4], s, t, 0);
        b.check();
      }
      {
        Box b = box(6);
        pthreadpool_parallelize_6d_tile_2d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t l, size_t m, size_t n, size_t p, size_t q) {
              for (size_t x = 0; x < p; ++x)
                for (size_t y = 0; y < q; ++y) static_cast<Box*>(c)->visit(i, j, k, l, m + x, n + y);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], b.extent[3], b.extent[4], b.extent[5], s, t, 0);
        b.check();
      }
    }
  }
}

TEST_CASE("what the tiles wrote is there when the call returns, job after job") {
  const Pool pool = make_pool(3);
  std::vector<int> values(64);
  for (int round = 1; round <= 20'000; ++round) {
    pthreadpool_parallelize_1d(
        pool.get(), [](void* c, size_t i) { ++(*static_cast<std::vector<int>*>(c))[i]; }, &values,
        1 + static_cast<size_t>(round) % values.size(), 0);
    REQUIRE(values[0] == round);
    // Long enough for the workers to fall asleep, now and then.
    if (round % 5'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST_CASE("several threads share a pool") {
  const Pool pool = make_pool(2);
  std::vector<std::thread> callers;
  std::atomic<size_t> sum{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 2'000; ++round)
        pthreadpool_parallelize_1d(
            pool.get(), [](void* c, size_t i) { *static_cast<std::atomic<size_t>*>(c) += i; }, &sum, 10, 0);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 3 * 2'000 * 45);
}

TEST_CASE("tasks are told their thread and a microarchitecture that there is") {
  // XNNPACK is the first to do anything, and initialises cpuinfo, which else ends the process when asked.
  piqi::Interpreter(piqi_test::chain(1), 1);
  struct Seen {
    Box box;
    std::vector<std::atomic<int>> running;  // tiles of each thread at this moment
    void enter(size_t thread, size_t i, size_t j = 0, size_t k = 0, size_t n = 1) {
      CHECK(running.at(thread)++ == 0);
      for (size_t x = 0; x < n; ++x) box.visit(i, j, k + x);
      --running.at(thread);
    }
  };
  std::mt19937 random(3);
  for (size_t threads : {1, 2, 4}) {
    const Pool pool = make_pool(threads);
    for (int round = 0; round < 20; ++round) {
      const auto seen = [&](size_t dimensions) {
        return Seen{Box(random, dimensions), std::vector<std::atomic<int>>(threads)};
      };
      const size_t tile = 1 + random() % 4;
      {
        Seen s = seen(1);
        pthreadpool_parallelize_1d_with_thread(
            pool.get(), [](void* c, size_t thread, size_t i) { static_cast<Seen*>(c)->enter(thread, i); }, &s,
            s.box.extent[0], 0);
        s.box.check();
      }
      {
        Seen s = seen(2);
        pthreadpool_parallelize_2d_with_thread(
            pool.get(),
            [](void* c, size_t thread, size_t i, size_t j) { static_cast<Seen*>(c)->enter(thread, i, j); },
            &s, s.box.extent[0], s.box.extent[1], 0);
        s.box.check();
      }
      {
        Seen s = seen(3);
        pthreadpool_parallelize_3d_tile_1d_with_uarch_with_thread(
            pool.get(),
            [](void* c, uint32_t uarch, size_t thread, size_t i, size_t j, size_t k, size_t n) {
              CHECK(uarch <= highest);
              static_cast<Seen*>(c)->enter(thread, i, j, k, n);
            },
            &s, 0, highest, s.box.extent[0], s.box.extent[1], s.box.extent[2], tile, 0);
        s.box.check();
      }
      {
        Box b(random, 2);
        pthreadpool_parallelize_2d_tile_2d_with_uarch(
            pool.get(),
            [](void* c, uint32_t uarch, size_t i, size_t j, size_t m, size_t n) {
              CHECK(uarch <= highest);
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i + x, j + y);
            },
            &b, 0, highest, b.extent[0], b.extent[1], tile, 2, 0);
        b.check();
      }
      {
        Box b(random, 3);
        pthreadpool_parallelize_3d_tile_2d_with_uarch(
            pool.get(),
            [](void* c, uint32_t, size_t i, size_t j, size_t k, size_t m, size_t n) {
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i, j + x, k + y);
            },
            &b, 0, highest, b.extent[0], b.extent[1], b.extent[2], 2, tile, 0);
        b.check();
      }
      {
        Box b(random, 4);
        pthreadpool_parallelize_4d_tile_2d_with_uarch(
            pool.get(),
            [](void* c, uint32_t, size_t i, size_t j, size_t k, size_t l, size_t m, size_t n) {
              for (size_t x = 0; x < m; ++x)
                for (size_t y = 0; y < n; ++y) static_cast<Box*>(c)->visit(i, j, k + x, l + y);
            },
            &b, 0, highest, b.extent[0], b.extent[1], b.extent[2], b.extent[3], 2, tile, 0);
        b.check();
      }
      {
        Box b(random, 3);
        pthreadpool_parallelize_3d_tile_1d(
            pool.get(),
            [](void* c, size_t i, size_t j, size_t k, size_t n) {
              for (size_t x = 0; x < n; ++x) static_cast<Box*>(c)->visit(i, j, k + x);
            },
            &b, b.extent[0], b.extent[1], b.extent[2], tile, 0);
        b.check();
      }
    }
  }
}

TEST_CASE("a tile that waits for another processor's work does not hold up the rest") {
  // One tile lasts until all others are done, which it can only see if somebody else runs them.
  const Pool pool = make_pool(2);
  std::atomic<int> done{0};
  pthreadpool_parallelize_1d(
      pool.get(),
      [](void* c, size_t i) {
        auto& count = *static_cast<std::atomic<int>*>(c);
        while (i == 9 && count < 9) std::this_thread::yield();
        ++count;
      },
      &done, 10, 0);
  CHECK(done == 10);
}

TEST_CASE("XNNPACK calls this pool, not Debian's") {
  CHECK(piqi::pool_is_interposed());
}

TEST_CASE("a processor's pool has its threads") {
  piqi::Processor processor;
  processor.letter = 'L';
  processor.threads = 3;
  CHECK(pthreadpool_get_threads_count(piqi::ThreadPool(processor).get()) == 3);
  processor.threads = 1;
  CHECK(piqi::ThreadPool(processor).get() == nullptr);
  processor.cpus = {4095};
  CHECK(piqi::ThreadPool(processor).warning().find("CPU 4095") != std::string::npos);
}
