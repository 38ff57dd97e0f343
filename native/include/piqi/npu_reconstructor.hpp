// Replaces the inside of an NPU's sub-graph by one node that holds a prepared partition.
#pragma once

#include <memory>
#include <vector>

#include "piqi/board.hpp"
#include "piqi/graph_creator.hpp"
#include "piqi/partition.hpp"

namespace piqi {

class NpuReconstructor {
 public:
  /// Gives every sub-graph on an NPU its partition and makes it one step. Throws PartitionError where one is
  /// missing or its tensors are not, by name and shape, those that cross the cut.
  static void reconstruct(CutGraph& cut, const Graph& graph, const Board& board,
                          const std::vector<std::shared_ptr<const Partition>>& partitions);
};

}  // namespace piqi
