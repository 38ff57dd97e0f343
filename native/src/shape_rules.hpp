// What shapes, types and parameters an operator accepts: checked before anything runs, since kernels trust
// them.
#pragma once

#include "piqi/graph.hpp"

namespace piqi {

/// Throws GraphError naming the operator, what was expected and what came.
void check_shapes(const Graph& graph, const Operator& op);

}  // namespace piqi
