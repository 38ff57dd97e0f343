#include <algorithm>
#include <utility>

#include "piqi/backend.hpp"
#include "piqi/operator_sequence.hpp"

namespace piqi {
namespace {

Format format_of(const Tensor& tensor) {
  return {tensor.type, tensor.quantization, Layout::Nhwc};
}

class XnnpackSubGraph final : public PreparedSubGraph {
 public:
  XnnpackSubGraph(const std::shared_ptr<const Graph>& graph, std::vector<OperatorId> operators,
                  std::vector<size_t> step_ends, std::vector<TensorId> inputs, std::vector<TensorId> outputs,
                  KernelCache& cache)
      : step_ends_(std::move(step_ends)), sequence_(graph, std::move(operators), inputs, outputs, cache) {
    for (TensorId id : inputs) input_formats_.push_back(format_of(graph->tensor(id)));
    for (TensorId id : outputs) output_formats_.push_back(format_of(graph->tensor(id)));
  }

  Format input_format(size_t i) const override { return input_formats_.at(i); }
  Format output_format(size_t i) const override { return output_formats_.at(i); }
  void bind(const void* const* inputs, void* const* outputs) override { sequence_.bind(inputs, outputs); }
  void run_step(size_t step, pthreadpool_t pool) override {
    sequence_.run(step == 0 ? 0 : step_ends_[step - 1], step_ends_[step], pool);
    if (shared_ && step + 1 == step_ends_.size()) sequence_.release();
  }
  size_t memory_bytes() const override { return 0; }  // weights and arenas are the cache's
  void share_memory(bool shared) override {
    shared_ = shared;
    if (shared) sequence_.release();
  }
  void measure_kernels(bool enabled) override { sequence_.measure_kernels(enabled); }
  int64_t take_kernel_ns() override { return sequence_.take_kernel_ns(); }

 private:
  std::vector<Format> input_formats_, output_formats_;
  std::vector<size_t> step_ends_;
  OperatorSequence sequence_;
  bool shared_ = true;
};

class XnnpackBackend final : public Backend {
 public:
  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache& cache) override {
    if (sub_graph.partition) return prepare_partition(*graph, sub_graph, cache);
    std::vector<OperatorId> operators;
    std::vector<size_t> step_ends;
    for (const Step& step : sub_graph.steps) {
      operators.insert(operators.end(), step.operators.begin(), step.operators.end());
      step_ends.push_back(operators.size());
    }
    // Layers are run in order; inside the sub-graph the graph's own order is kept, since ids rise with it.
    return std::make_unique<XnnpackSubGraph>(graph, std::move(operators), std::move(step_ends),
                                             sub_graph.receivers, sub_graph.senders, cache);
  }

 private:
  static std::unique_ptr<PreparedSubGraph> prepare_partition(const Graph& graph, const SubGraph& sub_graph,
                                                             KernelCache& cache) {
    const std::shared_ptr<const Graph>& inner = sub_graph.partition->graph;
    if (!inner)
      throw PartitionError("the partition of layers " + std::to_string(sub_graph.first_layer) + " to " +
                           std::to_string(sub_graph.last_layer) + " holds no operators, only '" +
                           sub_graph.partition->vendor_file + "'");
    const auto by_name = [&](const std::vector<TensorId>& ids) {
      std::vector<TensorId> found;
      for (TensorId id : ids) found.push_back(inner->find_tensor(graph.tensor(id).name));
      return found;
    };
    std::vector<OperatorId> operators(inner->operators().size());
    for (OperatorId id = 0; id < operators.size(); ++id) operators[id] = id;
    const size_t count = operators.size();
    return std::make_unique<XnnpackSubGraph>(inner, std::move(operators), std::vector<size_t>{count},
                                             by_name(sub_graph.receivers), by_name(sub_graph.senders), cache);
  }
};

}  // namespace

std::shared_ptr<Backend> make_xnnpack_backend() {
  return std::make_shared<XnnpackBackend>();
}

}  // namespace piqi
