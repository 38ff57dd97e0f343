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
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Null where the processor has a single thread: work then runs on the calling thread.
  pthreadpool_t get() const { return pool_; }
  /// Pins the calling thread, which works beside the pool's own, to the processor's CPUs.
  void pin_this_thread() const;
  /// Sends the workers to sleep, so that they do not spin beside the processor that works next.
  void rest() const;
  /// Empty where the threads are pinned as asked; else why they are not.
  const std::string& warning() const { return warning_; }

 private:
  std::vector<int> cpus_;  // those that this process may use; empty: unpinned
  std::string warning_;
  pthreadpool_t pool_ = nullptr;
};

}  // namespace piqi
