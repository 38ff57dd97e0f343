// One operator, prepared: weights packed once, then run on any buffers and any thread pool.
#pragma once

#include <pthreadpool.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "piqi/graph.hpp"

namespace piqi {

/// Every buffer is dense, 64-byte aligned, and has `extra_bytes` readable bytes behind its end.
constexpr size_t extra_bytes = 64;

/// A prepared operator. Sub-graphs of many configurations share it: whoever runs it holds `mutex` and calls
/// setup() first if it was not the last one to do so (`owner`). After the first setup() with the same shapes,
/// neither setup() nor run() allocates memory.
class Kernel {
 public:
  virtual ~Kernel() = default;
  /// Binds the non-constant inputs and the outputs, in the operator's order (constants are held inside).
  virtual void setup(const void* const* inputs, void* const* outputs, pthreadpool_t pool) = 0;
  virtual void run(pthreadpool_t pool) = 0;
  /// Bytes of memory held for packed weights and tables.
  virtual size_t memory_bytes() const = 0;

  std::mutex mutex;
  uint64_t owner = 0;  // a number that no two users share; 0: nobody
};

/// Prepares an operator on XNNPACK (or on portable code of ours where XNNPACK has no such operator). The
/// tensors' types choose the arithmetic: float32; int8 with per-channel or per-tensor int8 weights; uint8
/// with per-tensor uint8 weights. Throws UnsupportedError, BackendError.
std::shared_ptr<Kernel> make_kernel(const Graph& graph, const Operator& op);

}  // namespace piqi
