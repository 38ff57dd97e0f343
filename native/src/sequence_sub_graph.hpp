// A sub-graph whose operators are kernels that run one after the other on the processor's threads.
#pragma once

#include <memory>

#include "piqi/backend.hpp"
#include "piqi/operator_sequence.hpp"

namespace piqi {

/// `sub_graph` of `graph` on kernels of `make`, its tensors in an arena of `arenas`.
std::unique_ptr<PreparedSubGraph> prepare_sequence(const std::shared_ptr<const Graph>& graph,
                                                   const SubGraph& sub_graph,
                                                   const OperatorSequence::Maker& make,
                                                   std::shared_ptr<ArenaPool> arenas);

}  // namespace piqi
