// Shares prepared operators between the sub-graphs of many configurations: weights are packed once.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "piqi/graph.hpp"
#include "piqi/kernel.hpp"

namespace piqi {

class KernelCache {
 public:
  /// The kernel for an operator: an existing one if its kind, parameters, tensors and constants are the same.
  std::shared_ptr<Kernel> get(const Graph& graph, const Operator& op);
  /// Drops kernels that no sub-graph uses.
  void trim();
  size_t memory_bytes() const;

 private:
  struct Entry {
    std::shared_ptr<Kernel> kernel;
    std::vector<std::shared_ptr<const void>>
        constants;  // keeps the addresses in the key from being used again
  };
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace piqi
