// The file that stands in for a `.rknn`: a quantised network as text, then its constants.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "piqi/graph.hpp"

namespace emulator {

struct Network {
  std::shared_ptr<piqi::Graph> graph;
  std::string target;
  int version = 0;
  uint32_t first_layer = 0, last_layer = 0;  // of the whole network
  std::vector<std::string> inputs, outputs;  // the names that the library gives
};

/// Throws std::exception for what is no such file.
Network read_network(const uint8_t* data, size_t size);

}  // namespace emulator
