#if defined(PIQI_ARMCL)
#include "armcl_scheduler.hpp"

#include <arm_compute/core/CPP/ICPPKernel.h>
#include <arm_compute/core/Window.h>
#include <arm_compute/runtime/IScheduler.h>
#include <arm_compute/runtime/Scheduler.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace piqi::armcl {
namespace {

namespace acl = arm_compute;

struct Current {
  pthreadpool_t pool = nullptr;
  unsigned threads = 1;
};

thread_local Current current;

/// The most even division of rows x columns among at most `threads`.
std::pair<unsigned, unsigned> divide(unsigned threads, size_t rows, size_t columns) {
  std::pair<unsigned, unsigned> best{1, 1};
  size_t least = rows * columns;
  for (unsigned i = 1; i <= std::min<size_t>(threads, rows); ++i) {
    const auto j = static_cast<unsigned>(std::min<size_t>(threads / i, columns));
    const size_t largest = ((rows + i - 1) / i) * ((columns + j - 1) / j);
    if (largest < least) least = largest, best = {i, j};
  }
  return best;
}

/// Workloads that some threads take one after the other. A thread's number is that of its part of the
/// functions' working memory, so no two of the same number run at a time.
class Feed {
 public:
  Feed(std::vector<acl::IScheduler::Workload>& workloads, const acl::CPUInfo& cpu) : workloads_(workloads) {
    info_.cpu_info = &cpu;
  }

  void run() {
    const size_t threads = std::min<size_t>(current.threads, workloads_.size());
    info_.num_threads = static_cast<int>(threads);
    pthreadpool_parallelize_1d(
        current.pool, [](void* feed, size_t thread) { static_cast<Feed*>(feed)->work(thread); }, this,
        threads, 0);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work(size_t thread) {
    acl::ThreadInfo info = info_;
    info.thread_id = static_cast<int>(thread);
    try {
      for (size_t i = next_++; i < workloads_.size(); i = next_++) workloads_[i](info);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  std::vector<acl::IScheduler::Workload>& workloads_;
  acl::ThreadInfo info_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

class PoolScheduler final : public acl::IScheduler {
 public:
  // The calling thread's processor says how many.
  void set_num_threads(unsigned) override {}
  unsigned num_threads() const override { return current.threads; }

  void schedule(acl::ICPPKernel* kernel, const Hints& hints) override {
    run(*kernel, hints, kernel->window(), nullptr);
  }
  // One of these two is the library's: newer releases name the window as well.
  void schedule_op(acl::ICPPKernel* kernel, const Hints& hints, acl::ITensorPack& tensors) {
    run(*kernel, hints, kernel->window(), &tensors);
  }
  void schedule_op(acl::ICPPKernel* kernel, const Hints& hints, const acl::Window& window,
                   acl::ITensorPack& tensors) {
    run(*kernel, hints, window, &tensors);
  }

 protected:
  void run_workloads(std::vector<Workload>& workloads) override { Feed(workloads, cpu_info()).run(); }

 private:
  void run(acl::ICPPKernel& kernel, const Hints& hints, const acl::Window& window,
           acl::ITensorPack* tensors) {
    const auto run_window = [&kernel, tensors](const acl::Window& part, const acl::ThreadInfo& info) {
      tensors ? kernel.run_op(*tensors, part, info) : kernel.run(part, info);
    };
    if (hints.split_dimension() == split_dimensions_all) return run_in_two_dimensions(kernel, window);
    const auto iterations = static_cast<unsigned>(window.num_iterations(hints.split_dimension()));
    const unsigned threads = std::min(iterations, current.threads);
    if (iterations == 0) return;
    if (threads == 1 || !kernel.is_parallelisable()) {
      acl::ThreadInfo info;
      info.cpu_info = &cpu_info();
      return run_window(window, info);
    }
    unsigned windows = threads;
    if (hints.strategy() == StrategyHint::DYNAMIC && hints.threshold() > 0)
      windows = std::min(iterations, static_cast<unsigned>(hints.threshold()));
    std::vector<Workload> workloads;
    workloads.reserve(windows);
    for (unsigned i = 0; i < windows; ++i)
      workloads.emplace_back([&, i, windows](const acl::ThreadInfo& info) {
        run_window(window.split_window(hints.split_dimension(), i, windows), info);
      });
    run_workloads(workloads);
  }

  void run_in_two_dimensions(acl::ICPPKernel& kernel, const acl::Window& window) {
    using acl::Window;
    const auto [rows, columns] =
        divide(current.threads, window.num_iterations(Window::DimX), window.num_iterations(Window::DimY));
    std::vector<Workload> workloads;
    workloads.reserve(rows * columns);
    for (unsigned y = 0; y < columns; ++y)
      for (unsigned x = 0; x < rows; ++x)
        workloads.emplace_back([&kernel, &window, x, y, in_x = rows, in_y = columns](const auto& info) {
          const Window part = window.split_window(Window::DimX, x, in_x).split_window(Window::DimY, y, in_y);
          Window place;
          place.set(Window::DimX, Window::Dimension(static_cast<int>(x), static_cast<int>(in_x)));
          place.set(Window::DimY, Window::Dimension(static_cast<int>(y), static_cast<int>(in_y)));
          kernel.run_nd(part, info, place);
        });
    run_workloads(workloads);
  }
};

}  // namespace

Worker::Worker(pthreadpool_t pool, unsigned threads) : pool_(current.pool), threads_(current.threads) {
  current = {pool, std::max(threads, 1u)};
}

Worker::~Worker() {
  current = {pool_, threads_};
}

void use_pool_scheduler() {
  static std::once_flag once;
  std::call_once(once, [] { acl::Scheduler::set(std::make_shared<PoolScheduler>()); });
}

}  // namespace piqi::armcl
#endif
