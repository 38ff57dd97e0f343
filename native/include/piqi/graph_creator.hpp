// Cuts a graph by a plan into sub-graphs that are joined by senders and receivers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "piqi/board.hpp"
#include "piqi/graph.hpp"
#include "piqi/partition.hpp"
#include "piqi/plan.hpp"

namespace piqi {

/// What runs between two looks at the clock, the governor and the marker: one layer, or a whole NPU node.
struct Step {
  size_t first_layer = 0;
  size_t last_layer = 0;
  std::vector<OperatorId> operators;
};

/// A maximal run of layers on one processor. `receivers` and `senders` are the tensors that enter and leave
/// it.
struct SubGraph {
  size_t processor = 0;
  size_t first_layer = 0;
  size_t last_layer = 0;
  std::vector<Step> steps;
  std::vector<TensorId> receivers;
  std::vector<TensorId> senders;
  std::shared_ptr<const Partition> partition;  // set by the NpuReconstructor
};

/// "layers 3 to 5", for messages.
std::string layer_range(size_t first_layer, size_t last_layer);
std::string layer_range(const SubGraph& sub_graph);

/// A tensor that crosses a cut: one sender, many receivers. A `sender` of npos is the caller (a graph input),
/// a receiver of npos too (a graph output).
struct Edge {
  TensorId tensor = 0;
  size_t sender = npos;
  std::vector<size_t> receivers;
};

struct CutGraph {
  std::vector<SubGraph> sub_graphs;
  std::vector<Edge> edges;
};

class GraphCreator {
 public:
  /// Throws PlanError where the plan is for another number of layers, GraphError where a layer has no
  /// operator.
  static CutGraph create(const Graph& graph, const Plan& plan);
};

}  // namespace piqi
