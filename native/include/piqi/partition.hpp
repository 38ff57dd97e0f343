// What an NPU runs: a contiguous range of layers, prepared offline.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>

#include "piqi/graph.hpp"

namespace piqi {

/// Inputs and outputs are matched to the network's tensors by name. `graph` is the range as quantised
/// operators, which the emulated NPU runs; `vendor_file` names the compiled form that a vendor's library
/// loads; `vendor_names` has the names that tensors have there, where they differ.
struct Partition {
  size_t first_layer = 0;
  size_t last_layer = 0;
  std::shared_ptr<const Graph> graph;
  std::string vendor_file;
  std::string checksum;  // identifies the content
  std::map<std::string, std::string> vendor_names = {};
};

}  // namespace piqi
