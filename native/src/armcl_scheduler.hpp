// The Arm Compute Library's scheduler is one for the whole process. Ours has no threads: it runs a kernel on
// the pool of the processor whose thread has asked for it.
#pragma once

#include <pthreadpool.h>

namespace piqi::armcl {

/// While it lives, this thread's use of the library runs on `pool` (null: on this thread alone), on no more
/// than `threads` threads. With a null pool and several threads it configures for as many.
class Worker {
 public:
  Worker(pthreadpool_t pool, unsigned threads);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

 private:
  const pthreadpool_t pool_;
  const unsigned threads_;
};

/// Makes it the library's scheduler, once for the process; thread-safe.
void use_pool_scheduler();

}  // namespace piqi::armcl
