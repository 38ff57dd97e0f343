#include "sequence_sub_graph.hpp"

#include <utility>

namespace piqi {
namespace {

// Layers are run in order; inside of them the graph's own order is kept, since ids rise with it.
std::vector<OperatorId> operators_of(const SubGraph& sub_graph) {
  std::vector<OperatorId> operators;
  for (const Step& step : sub_graph.steps)
    operators.insert(operators.end(), step.operators.begin(), step.operators.end());
  return operators;
}

class SequenceSubGraph final : public PreparedSubGraph {
 public:
  SequenceSubGraph(const std::shared_ptr<const Graph>& graph, const SubGraph& sub_graph,
                   const OperatorSequence::Maker& make, std::shared_ptr<ArenaPool> arenas)
      : sequence_(graph, operators_of(sub_graph), sub_graph.receivers, sub_graph.senders, make,
                  std::move(arenas)) {
    for (TensorId id : sub_graph.receivers) input_formats_.push_back(format_of(graph->tensor(id)));
    for (TensorId id : sub_graph.senders) output_formats_.push_back(format_of(graph->tensor(id)));
    for (const Step& step : sub_graph.steps) steps_.push_back(steps_.back() + step.operators.size());
  }

  Format input_format(size_t i) const override { return input_formats_.at(i); }
  Format output_format(size_t i) const override { return output_formats_.at(i); }
  void bind(const void* const* inputs, void* const* outputs) override { sequence_.bind(inputs, outputs); }
  void run_step(size_t step, pthreadpool_t pool) override {
    sequence_.run(steps_[step], steps_[step + 1], pool);
    if (shared_ && step + 2 == steps_.size()) sequence_.release();
  }
  size_t memory_bytes() const override { return sequence_.memory_bytes(); }
  void share_memory(bool shared) override {
    shared_ = shared;
    if (shared) sequence_.release();
  }
  void measure_kernels(bool enabled) override { sequence_.measure_kernels(enabled); }
  int64_t take_kernel_ns() override { return sequence_.take_kernel_ns(); }

 private:
  OperatorSequence sequence_;
  std::vector<Format> input_formats_, output_formats_;
  std::vector<size_t> steps_{0};  // where each begins in the sequence, and where the last ends
  bool shared_ = true;
};

}  // namespace

std::unique_ptr<PreparedSubGraph> prepare_sequence(const std::shared_ptr<const Graph>& graph,
                                                   const SubGraph& sub_graph,
                                                   const OperatorSequence::Maker& make,
                                                   std::shared_ptr<ArenaPool> arenas) {
  return std::make_unique<SequenceSubGraph>(graph, sub_graph, make, std::move(arenas));
}

}  // namespace piqi
