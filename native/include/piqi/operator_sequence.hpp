// Operators that run one after the other on one thread pool, their tensors in one arena.
#pragma once

#include <pthreadpool.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "piqi/aligned_buffer.hpp"
#include "piqi/graph.hpp"
#include "piqi/kernel_cache.hpp"

namespace piqi {

/// All operators of a graph, in order.
std::vector<OperatorId> all_operators(const Graph& graph);

class OperatorSequence {
 public:
  struct Made {
    std::shared_ptr<Kernel> kernel;
    bool cached = false;  // the KernelCache's, which counts its memory
  };
  using Maker = std::function<Made(const Operator&)>;

  /// `operators` of `graph`, in order, on kernels of `make`; `inputs` and `outputs` live in the caller's
  /// buffers, the rest in the arena, where tensors whose lifetimes do not meet share memory (unless
  /// `keep_all`).
  OperatorSequence(std::shared_ptr<const Graph> graph, const std::vector<OperatorId>& operators,
                   std::vector<TensorId> inputs, std::vector<TensorId> outputs, const Maker& make,
                   std::shared_ptr<ArenaPool> arenas, bool keep_all = false);
  /// On kernels of the cache.
  OperatorSequence(const std::shared_ptr<const Graph>& graph, const std::vector<OperatorId>& operators,
                   std::vector<TensorId> inputs, std::vector<TensorId> outputs, KernelCache& cache,
                   bool keep_all = false);
  ~OperatorSequence();

  /// Names the caller's buffers and takes an arena, until release(). Before run().
  void bind(const void* const* inputs, void* const* outputs);
  /// Runs operators [begin, end) of the sequence.
  void run(size_t begin, size_t end, pthreadpool_t pool);
  /// Leaves the arena to others, with all that is in it.
  void release();
  size_t size() const { return nodes_.size(); }
  /// Where a tensor of the sequence lies after run(); meaningful for every tensor with `keep_all`.
  const void* data(TensorId tensor) const;
  /// Of the kernels that are not the cache's: those who share one count a part of it each.
  size_t memory_bytes() const;
  /// Time spent inside the kernels since the last call, in ns; measured only while enabled.
  void measure_kernels(bool enabled) { measure_ = enabled; }
  int64_t take_kernel_ns();

 private:
  struct Node {
    Made made;  // no kernel: a reshape whose output shares its input's memory
    uint64_t owner = 0;
    std::vector<TensorId> inputs, outputs;
    std::vector<const void*> input_data;
    std::vector<void*> output_data;
    bool external = false;  // touches the caller's buffers
    bool stale = true;      // its buffers changed since its last setup
    pthreadpool_t pool = nullptr;
  };
  void place(bool keep_all);
  void move_to(AlignedBuffer& arena);
  void resolve(Node& node);

  std::shared_ptr<const Graph> graph_;
  std::vector<TensorId> inputs_, outputs_;
  std::vector<Node> nodes_;
  std::vector<void*> data_;  // tensor -> where it lies; null: not of this sequence, or a constant
  std::vector<std::pair<TensorId, size_t>> offsets_;  // where a tensor lies in the arena
  size_t arena_bytes_ = 0;
  const std::shared_ptr<ArenaPool> arenas_;
  ArenaPool::Arena arena_;         // null between frames
  const uint8_t* last_ = nullptr;  // begin of the arena that `data_` points into
  bool measure_ = false;
  int64_t kernel_ns_ = 0;
};

}  // namespace piqi
