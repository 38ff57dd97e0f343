// Runs a whole graph uncut on the calling thread: the yardstick for cut runs, and the source of calibration
// data.
#pragma once

#include <memory>
#include <mutex>

#include "piqi/graph.hpp"
#include "piqi/kernel_cache.hpp"
#include "piqi/operator_sequence.hpp"
#include "piqi/thread_pool.hpp"

namespace piqi {

class Interpreter {
 public:
  /// `keep_all`: every tensor keeps memory of its own, so that data() is valid for all of them after a run.
  Interpreter(std::shared_ptr<const Graph> graph, size_t threads, bool keep_all = false);

  /// Dense buffers in the order of the graph's inputs and outputs.
  void run(const void* const* inputs, void* const* outputs);
  const void* data(TensorId tensor) const { return sequence_->data(tensor); }
  const Graph& graph() const { return *graph_; }
  size_t memory_bytes() const { return cache_.memory_bytes(); }

 private:
  std::shared_ptr<const Graph> graph_;
  ThreadPool pool_;
  KernelCache cache_;
  std::unique_ptr<OperatorSequence> sequence_;
  std::vector<AlignedBuffer> inputs_, outputs_;  // kernels need alignment and room behind the end
  std::mutex mutex_;
};

}  // namespace piqi
