// Whether XNNPACK runs on our thread pool.
#pragma once

#include <cstdint>

namespace piqi {

/// How often this thread called our parallel functions: to tell whether XNNPACK's calls arrive here.
uint64_t parallel_calls();

/// True if XNNPACK calls our pthreadpool functions, not another library's, which would not know our pools.
bool pool_is_interposed();

}  // namespace piqi
