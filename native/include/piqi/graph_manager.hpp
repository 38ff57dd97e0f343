// Prepares sub-graphs on their backends once and keeps them, with the processors' threads, for every
// configuration.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "piqi/backend.hpp"
#include "piqi/board.hpp"
#include "piqi/graph.hpp"
#include "piqi/graph_creator.hpp"
#include "piqi/kernel_cache.hpp"
#include "piqi/partition.hpp"
#include "piqi/plan.hpp"
#include "piqi/thread_pool.hpp"

namespace piqi {

class GraphManager {
 public:
  using Backends = std::map<std::string, std::shared_ptr<Backend>>;

  /// `backends` by the names that the board's processors use. Throws BackendError for a name that is not
  /// there.
  GraphManager(std::shared_ptr<const Graph> graph, std::shared_ptr<const Board> board, Backends backends);
  ~GraphManager();
  GraphManager(const GraphManager&) = delete;
  GraphManager& operator=(const GraphManager&) = delete;

  const Graph& graph() const { return *graph_; }
  const Board& board() const { return *board_; }
  const ThreadPool& pool(size_t processor) const { return *pools_.at(processor); }

  /// The sub-graphs of a plan, their NPU nodes in place.
  CutGraph cut(const Plan& plan, const std::vector<std::shared_ptr<const Partition>>& partitions) const;
  /// A prepared form of a sub-graph: a free one, or a new one.
  std::shared_ptr<PreparedSubGraph> take(const SubGraph& sub_graph);
  /// Puts it back for the next configuration that needs it.
  void give_back(const SubGraph& sub_graph, std::shared_ptr<PreparedSubGraph> prepared);
  /// Closes everything that no executor holds. Throws TimeoutError, after closing the rest, naming a
  /// sub-graph whose backend does not close within `patience`; its resources are given up.
  void trim(std::chrono::milliseconds patience = std::chrono::seconds(2));
  /// Packed weights and arenas, used or free.
  size_t memory_bytes() const;
  /// Why threads run unpinned, one line a processor; empty if all is as asked.
  std::vector<std::string> warnings() const;

 private:
  // backend, processor (npos: any of the backend's), first layer, last layer
  using Key = std::tuple<std::string, size_t, size_t, size_t, const Partition*>;
  Key key(const SubGraph& sub_graph) const;

  std::shared_ptr<const Graph> graph_;
  std::shared_ptr<const Board> board_;
  Backends backends_;
  std::vector<std::unique_ptr<ThreadPool>> pools_;
  KernelCache cache_;
  mutable std::mutex mutex_;
  std::multimap<Key, std::shared_ptr<PreparedSubGraph>> free_;
  std::vector<std::weak_ptr<PreparedSubGraph>> all_;
};

}  // namespace piqi
