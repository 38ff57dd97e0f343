#include "piqi/graph_creator.hpp"

#include <algorithm>

namespace piqi {
namespace {

// The sub-graphs and their steps, from the layers alone.
std::vector<SubGraph> runs_of_layers(const Graph& graph, const Plan& plan) {
  std::vector<SubGraph> sub_graphs;
  std::vector<Step> steps(graph.layer_count());
  for (OperatorId id = 0; id < graph.operators().size(); ++id)
    steps[graph.operators()[id].layer].operators.push_back(id);
  for (size_t layer = 0; layer < steps.size(); ++layer) {
    if (steps[layer].operators.empty())
      throw GraphError(graph.name() + ": layer " + std::to_string(layer) + " has no operator");
    if (layer == 0 || plan.processor(layer) != plan.processor(layer - 1)) {
      SubGraph next;
      next.processor = plan.processor(layer);
      next.first_layer = layer;
      sub_graphs.push_back(std::move(next));
    }
    steps[layer].first_layer = steps[layer].last_layer = layer;
    sub_graphs.back().last_layer = layer;
    sub_graphs.back().steps.push_back(std::move(steps[layer]));
  }
  return sub_graphs;
}

}  // namespace

std::string layer_range(size_t first_layer, size_t last_layer) {
  return "layers " + std::to_string(first_layer) + " to " + std::to_string(last_layer);
}

std::string layer_range(const SubGraph& sub_graph) {
  return layer_range(sub_graph.first_layer, sub_graph.last_layer);
}

CutGraph GraphCreator::create(const Graph& graph, const Plan& plan) {
  if (!graph.finished()) throw GraphError(graph.name() + ": finish() was not called");
  if (plan.layer_count() != graph.layer_count())
    throw PlanError("the plan has " + std::to_string(plan.layer_count()) + " layers, " + graph.name() +
                    " has " + std::to_string(graph.layer_count()));
  CutGraph cut;
  cut.sub_graphs = runs_of_layers(graph, plan);
  std::vector<size_t> home(graph.operators().size());  // operator -> sub-graph
  for (size_t i = 0; i < cut.sub_graphs.size(); ++i)
    for (const Step& step : cut.sub_graphs[i].steps)
      for (OperatorId id : step.operators) home[id] = i;

  for (TensorId id = 0; id < graph.tensors().size(); ++id) {
    const Tensor& tensor = graph.tensor(id);
    if (tensor.is_constant()) continue;
    Edge edge;
    edge.tensor = id;
    edge.sender = tensor.producer == npos ? npos : home[tensor.producer];
    for (OperatorId consumer : tensor.consumers)
      if (home[consumer] != edge.sender) edge.receivers.push_back(home[consumer]);
    std::sort(edge.receivers.begin(), edge.receivers.end());
    edge.receivers.erase(std::unique(edge.receivers.begin(), edge.receivers.end()), edge.receivers.end());
    for (size_t receiver : edge.receivers) cut.sub_graphs[receiver].receivers.push_back(id);
    if (std::find(graph.outputs().begin(), graph.outputs().end(), id) != graph.outputs().end())
      edge.receivers.push_back(npos);
    if (edge.receivers.empty()) continue;
    if (edge.sender != npos) cut.sub_graphs[edge.sender].senders.push_back(id);
    cut.edges.push_back(std::move(edge));
  }
  return cut;
}

}  // namespace piqi
