#include "piqi/npu_reconstructor.hpp"

#include <algorithm>

namespace piqi {
namespace {

// Every tensor of the cut must be one of the partition's, and no input may be left without data.
void check_fit(const Graph& graph, const SubGraph& sub_graph, const Partition& partition) {
  const Graph& inner = *partition.graph;
  const std::string where = "partition of " + layer_range(partition.first_layer, partition.last_layer) + ": ";
  const auto match = [&](const std::vector<TensorId>& crossing, const std::vector<TensorId>& ends,
                         const char* end) {
    for (TensorId id : crossing) {
      const Tensor& tensor = graph.tensor(id);
      const auto found = std::find_if(
          ends.begin(), ends.end(), [&](TensorId other) { return inner.tensor(other).name == tensor.name; });
      if (found == ends.end()) throw PartitionError(where + "has no " + end + " '" + tensor.name + "'");
      if (inner.tensor(*found).shape != tensor.shape)
        throw PartitionError(where + end + " '" + tensor.name + "' has shape " +
                             to_string(inner.tensor(*found).shape) + ", the network's is " +
                             to_string(tensor.shape));
    }
  };
  match(sub_graph.receivers, inner.inputs(), "input");
  match(sub_graph.senders, inner.outputs(), "output");
  if (inner.inputs().size() != sub_graph.receivers.size())
    throw PartitionError(where + "needs " + std::to_string(inner.inputs().size()) + " inputs, " +
                         std::to_string(sub_graph.receivers.size()) + " tensors enter the range");
}

}  // namespace

void NpuReconstructor::reconstruct(CutGraph& cut, const Graph& graph, const Board& board,
                                   const std::vector<std::shared_ptr<const Partition>>& partitions) {
  for (SubGraph& sub_graph : cut.sub_graphs) {
    if (board.processors()[sub_graph.processor].kind != ProcessorKind::Npu) continue;
    const auto found = std::find_if(partitions.begin(), partitions.end(), [&](const auto& partition) {
      return partition && partition->first_layer == sub_graph.first_layer &&
             partition->last_layer == sub_graph.last_layer;
    });
    if (found == partitions.end())
      throw PartitionError("no partition was given for " + layer_range(sub_graph));
    if ((*found)->graph) check_fit(graph, sub_graph, **found);
    Step node;
    node.first_layer = sub_graph.first_layer;
    node.last_layer = sub_graph.last_layer;
    for (const Step& step : sub_graph.steps)
      node.operators.insert(node.operators.end(), step.operators.begin(), step.operators.end());
    sub_graph.steps = {std::move(node)};
    sub_graph.partition = *found;
  }
}

}  // namespace piqi
