#include "sequence_sub_graph.hpp"

namespace piqi {
namespace {

class XnnpackBackend final : public Backend {
 public:
  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache& cache) override {
    if (sub_graph.partition) return prepare_partition(*graph, sub_graph, cache);
    return prepare_cached(graph, sub_graph, cache);
  }

 private:
  static std::unique_ptr<PreparedSubGraph> prepare_cached(const std::shared_ptr<const Graph>& graph,
                                                          const SubGraph& sub_graph, KernelCache& cache) {
    const auto make = [&](const Operator& op) { return OperatorSequence::Made{cache.get(*graph, op), true}; };
    return prepare_sequence(graph, sub_graph, make, cache.arenas());
  }

  static std::unique_ptr<PreparedSubGraph> prepare_partition(const Graph& graph, const SubGraph& sub_graph,
                                                             KernelCache& cache) {
    const std::shared_ptr<const Graph>& inner = sub_graph.partition->graph;
    if (!inner)
      throw PartitionError("the partition of " + layer_range(sub_graph) + " holds no operators, only '" +
                           sub_graph.partition->vendor_file + "'");
    const auto by_name = [&](const std::vector<TensorId>& ids) {
      std::vector<TensorId> found;
      for (TensorId id : ids) found.push_back(inner->find_tensor(graph.tensor(id).name));
      return found;
    };
    SubGraph whole;  // of the partition's graph
    whole.steps.emplace_back().operators = all_operators(*inner);
    whole.receivers = by_name(sub_graph.receivers);
    whole.senders = by_name(sub_graph.senders);
    return prepare_cached(inner, whole, cache);
  }
};

}  // namespace

std::shared_ptr<Backend> make_xnnpack_backend() {
  return std::make_shared<XnnpackBackend>();
}

}  // namespace piqi
