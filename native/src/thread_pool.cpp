#include "piqi/thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <thread>

#include "thread_pool_checks.hpp"

namespace piqi {
namespace {

void pin(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  // Cannot fail but for a CPU that went offline since the constructor looked; then the thread stays where it
  // was.
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

Processor unpinned(size_t threads) {
  Processor processor;
  processor.threads = threads;
  return processor;
}

}  // namespace

ThreadPool::ThreadPool(size_t threads) : ThreadPool(unpinned(threads)) {
}

ThreadPool::ThreadPool(const Processor& processor) : cpus_(processor.cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (int cpu : cpus_) {
    if (cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(static_cast<size_t>(cpu), &allowed)) continue;
    warning_ = std::string("processor ") + processor.letter + ": CPU " + std::to_string(cpu) +
               " is not available here, its threads run unpinned";
    cpus_.clear();
    break;
  }
  if (processor.threads < 2) return;
  if (!pool_is_interposed()) {
    warning_ += (warning_.empty() ? "" : "; ") + std::string("processor ") + processor.letter +
                ": another library loaded XNNPACK with a thread pool of its own, runs on a single thread";
    return;
  }
  // A thread inherits the affinity of the one that creates it.
  std::thread([&] {
    pin(cpus_);
    pool_ = pthreadpool_create(processor.threads);
  }).join();
  if (!pool_)
    throw BackendError(std::string("processor ") + processor.letter + ": cannot create " +
                       std::to_string(processor.threads) + " threads");
}

ThreadPool::~ThreadPool() {
  if (pool_) pthreadpool_destroy(pool_);
}

void ThreadPool::pin_this_thread() const {
  pin(cpus_);
}

}  // namespace piqi
