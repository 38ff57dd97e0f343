// What a network gives for many masks at once: masks that begin alike share the work of their beginning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "piqi/aligned_buffer.hpp"
#include "piqi/graph.hpp"
#include "piqi/kernel_cache.hpp"
#include "piqi/operator_sequence.hpp"
#include "piqi/thread_pool.hpp"

namespace piqi {

/// Walks masks as a trie over the layers, depth first. Every tensor that leaves a layer has one buffer for
/// its float32 form and one for its quantised form; going deeper never writes what lies above, so each
/// distinct beginning of the masks is computed once, and each form is converted into the other at most once.
/// Runs the executor's kernels: the outputs are, bit for bit, those of a GraphExecutor that has the masked
/// layers on an emulated NPU. Used by one thread at a time.
class MaskEvaluator {
 public:
  /// Both graphs have the same operators, layers and names of tensors. Throws GraphError.
  MaskEvaluator(std::shared_ptr<const Graph> exact, std::shared_ptr<const Graph> quantised,
                size_t threads = 1);

  /// `outputs`: dense float32, in the order of the graph's outputs, valid during the call.
  using Leaf = std::function<void(size_t mask, const void* const* outputs)>;
  /// `masks`: count x layer_count, nonzero where a layer is quantised. Calls `leaf` once for each mask, in
  /// the order of the walk; what it throws ends the walk.
  void run(const void* const* inputs, const uint8_t* masks, size_t count, const Leaf& leaf);

  const Graph& graph() const { return *graphs_[0]; }
  /// Packed weights and tensors.
  size_t memory_bytes() const;

 private:
  enum Form : size_t { exact = 0, quantised = 1 };
  struct Crossing {
    TensorId ids[2] = {npos, npos};  // in each graph
    AlignedBuffer buffers[2];
    std::shared_ptr<Kernel> to[2];  // makes this form from the other
    bool bound[2] = {false, false};
    bool valid[2] = {false, false};
  };
  struct Layer {
    std::vector<size_t> inputs, outputs;  // crossings
    std::unique_ptr<OperatorSequence> sequences[2];
  };

  void prepare_crossings();
  void prepare_layers();
  const void* need(Crossing& crossing, Form form);
  void run_layer(size_t layer, Form form);
  void walk(size_t layer, size_t begin, size_t end, const Leaf& leaf);

  std::shared_ptr<const Graph> graphs_[2];
  ThreadPool pool_;
  KernelCache cache_;
  std::vector<Crossing> crossings_;
  std::vector<size_t> crossing_of_;  // tensor of the exact graph -> crossing
  std::vector<Layer> layers_;
  const uint8_t* masks_ = nullptr;
  std::vector<size_t> order_;  // of the masks in the walk
};

}  // namespace piqi
