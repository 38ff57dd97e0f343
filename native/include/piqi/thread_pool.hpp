// A processor's threads: a pthreadpool whose workers are pinned to the processor's CPUs.
#pragma once

#include <pthreadpool.h>

#include <string>
#include <vector>

#include "piqi/board.hpp"

namespace piqi {

class ThreadPool {
 public:
  explicit ThreadPool(const Processor& processor);
  /// Unpinned.
  explicit ThreadPool(size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Null where the processor has a single thread: work then runs on the calling thread.
  pthreadpool_t get() const { return pool_; }
  /// The CPUs that its threads are pinned to; empty: any.
  const std::vector<int>& cpus() const { return cpus_; }
  /// Pins the calling thread, which works beside the pool's own, to the processor's CPUs.
  void pin_this_thread() const;
  /// Empty where the threads are as asked; else what is different and why.
  const std::string& warning() const { return warning_; }

 private:
  std::vector<int> cpus_;  // those that this process may use; empty: unpinned
  std::string warning_;
  pthreadpool_t pool_ = nullptr;
};

}  // namespace piqi
