// Tells the thread sanitizer what libpthreadpool guarantees but, not being instrumented, does not show it:
// tasks see what happened before the parallel call, and what they did is seen after it. For the calls that
// our code makes.
#if defined(__SANITIZE_THREAD__)
#include <dlfcn.h>
#include <pthreadpool.h>
#include <sanitizer/tsan_interface.h>

namespace {

/// A parallel call; its own address stands for the hand-over to the tasks, `done` for that back.
template <typename Task>
struct Call {
  Task task;
  void* context;
  char done;
};

template <typename Task, typename... Indices>
void run_task(void* call, Indices... indices) {
  __tsan_acquire(call);
  auto* const that = static_cast<Call<Task>*>(call);
  that->task(that->context, indices...);
  __tsan_release(&that->done);
}

template <typename Task, typename... Sizes>
void parallelize(const char* name, pthreadpool_t pool, Task wrapper, Call<Task> call, Sizes... sizes) {
  using Parallelize = void (*)(pthreadpool_t, Task, void*, Sizes...);
  static const auto real = reinterpret_cast<Parallelize>(dlsym(RTLD_NEXT, name));
  __tsan_release(&call);
  real(pool, wrapper, &call, sizes...);
  __tsan_acquire(&call.done);
}

}  // namespace

extern "C" void pthreadpool_parallelize_1d(pthreadpool_t pool, pthreadpool_task_1d_t task, void* context,
                                           size_t range, uint32_t flags) {
  parallelize<pthreadpool_task_1d_t>("pthreadpool_parallelize_1d", pool,
                                     run_task<pthreadpool_task_1d_t, size_t>, {task, context, 0}, range,
                                     flags);
}

extern "C" void pthreadpool_parallelize_1d_tile_1d(pthreadpool_t pool, pthreadpool_task_1d_tile_1d_t task,
                                                   void* context, size_t range, size_t tile, uint32_t flags) {
  parallelize<pthreadpool_task_1d_tile_1d_t>("pthreadpool_parallelize_1d_tile_1d", pool,
                                             run_task<pthreadpool_task_1d_tile_1d_t, size_t, size_t>,
                                             {task, context, 0}, range, tile, flags);
}
#endif
