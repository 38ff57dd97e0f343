// A sub-graph whose operators are kernels of any make, run one after the other, their tensors in an arena.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "piqi/backend.hpp"

namespace piqi::armcl {

/// Where the tensors inside of a sub-graph lie, each from the operator that makes it to the last that reads
/// it.
struct Placement {
  struct Block {
    TensorId tensor;
    size_t offset;
  };
  std::vector<Block> blocks;
  size_t size_bytes = 0;
};

/// `operators` in order; `external` tensors lie elsewhere.
Placement place(const Graph& graph, const std::vector<const Operator*>& operators,
                const std::vector<TensorId>& external);

/// The operators of all steps, in order.
std::vector<const Operator*> operators_of(const Graph& graph, const SubGraph& sub_graph);

class KernelSequence final : public PreparedSubGraph {
 public:
  struct Made {
    std::shared_ptr<Kernel> kernel;
    bool cached = false;  // the KernelCache's, which counts its memory
  };
  using Maker = std::function<Made(const Operator&)>;

  KernelSequence(std::shared_ptr<const Graph> graph, const SubGraph& sub_graph,
                 std::shared_ptr<ArenaPool> arenas, const Maker& make);
  ~KernelSequence() override;

  Format input_format(size_t i) const override;
  Format output_format(size_t i) const override;
  void bind(const void* const* inputs, void* const* outputs) override;
  void run_step(size_t step, pthreadpool_t pool) override;
  size_t memory_bytes() const override;
  void share_memory(bool shared) override;
  void measure_kernels(bool enabled) override { measured_ = enabled; }
  int64_t take_kernel_ns() override { return std::exchange(kernel_ns_, 0); }

 private:
  struct Node {
    Made made;
    uint64_t owner;
    std::vector<TensorId> inputs, outputs;
    std::vector<const void*> input_data;
    std::vector<void*> output_data;
    bool stale = true;  // its buffers changed since its last setup
    pthreadpool_t pool = nullptr;
  };
  void run(Node& node, pthreadpool_t pool);
  void release();

  const std::shared_ptr<const Graph> graph_;
  const std::vector<TensorId> inputs_, outputs_;
  std::vector<Node> nodes_;
  std::vector<size_t> step_ends_;
  std::vector<void*> data_;  // of each tensor of the graph; null: not here
  Placement placement_;
  const std::shared_ptr<ArenaPool> arenas_;
  ArenaPool::Arena arena_;
  const uint8_t* last_ = nullptr;
  bool shared_ = true, measured_ = false;
  int64_t kernel_ns_ = 0;
};

}  // namespace piqi::armcl
