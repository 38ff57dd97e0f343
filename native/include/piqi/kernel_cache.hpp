// What the sub-graphs of many configurations share: prepared operators, whose weights are packed once, and
// working memory.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "piqi/arena_pool.hpp"
#include "piqi/graph.hpp"
#include "piqi/kernel.hpp"

namespace piqi {

class KernelCache {
 public:
  /// The kernel for an operator: an existing one if its kind, parameters, tensors and constants are the same.
  std::shared_ptr<Kernel> get(const Graph& graph, const Operator& op);
  const std::shared_ptr<ArenaPool>& arenas() const { return arenas_; }
  /// Drops kernels that no sub-graph uses and arenas that none runs on.
  void trim();
  size_t memory_bytes() const;

 private:
  struct Entry {
    std::shared_ptr<Kernel> kernel;
    std::vector<std::shared_ptr<const void>>
        constants;  // keeps the addresses in the key from being used again
  };
  const std::shared_ptr<ArenaPool> arenas_ = std::make_shared<ArenaPool>();
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace piqi
