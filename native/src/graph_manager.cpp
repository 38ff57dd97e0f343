#include "piqi/graph_manager.hpp"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "piqi/npu_reconstructor.hpp"

namespace piqi {
namespace {

// Destroys it on a thread of its own, so that a vendor's library that hangs takes only that thread with it.
std::future<void> close_supervised(std::shared_ptr<PreparedSubGraph> prepared) {
  std::promise<void> promise;
  std::future<void> closed = promise.get_future();
  std::thread([doomed = std::move(prepared), done = std::move(promise)]() mutable {
    doomed.reset();
    done.set_value();
  }).detach();
  return closed;
}

}  // namespace

GraphManager::GraphManager(std::shared_ptr<const Graph> graph, std::shared_ptr<const Board> board,
                           Backends backends)
    : graph_(std::move(graph)), board_(std::move(board)), backends_(std::move(backends)) {
  if (!graph_->finished()) throw GraphError(graph_->name() + ": finish() was not called");
  for (const Processor& processor : board_->processors()) {
    if (backends_.count(processor.backend) == 0)
      throw BackendError(std::string("processor ") + processor.letter + ": no backend is named '" +
                         processor.backend + "'");
    pools_.push_back(std::make_unique<ThreadPool>(processor));
  }
}

GraphManager::~GraphManager() {
  try {
    trim();
  } catch (const TimeoutError&) {
    // Given up; whoever wants to know calls trim() first.
  }
}

CutGraph GraphManager::cut(const Plan& plan,
                           const std::vector<std::shared_ptr<const Partition>>& partitions) const {
  // Made again for this board: another one's may name processors that are not here.
  const Plan fitted(*board_, plan.layer_count(), plan.order(), plan.freqs());
  for (size_t layer = 0; layer < plan.layer_count(); ++layer)
    if (fitted.processor(layer) != plan.processor(layer))
      throw PlanError("the plan was not made for board " + board_->name());
  CutGraph cut = GraphCreator::create(*graph_, plan);
  NpuReconstructor::reconstruct(cut, *graph_, *board_, partitions);
  return cut;
}

GraphManager::Key GraphManager::key(const SubGraph& sub_graph) const {
  const std::string& backend = board_->processors()[sub_graph.processor].backend;
  return {backend, backends_.at(backend)->per_processor() ? sub_graph.processor : npos, sub_graph.first_layer,
          sub_graph.last_layer, sub_graph.partition.get()};
}

std::shared_ptr<PreparedSubGraph> GraphManager::take(const SubGraph& sub_graph) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = free_.find(key(sub_graph));
    if (found != free_.end()) return free_.extract(found).mapped();
  }
  Backend& backend = *backends_.at(board_->processors()[sub_graph.processor].backend);
  std::unique_ptr<PreparedSubGraph> made = backend.prepare(graph_, sub_graph, cache_);
  // The partition lives as long as what was made of it, so that its address stays a valid key.
  struct Holder {
    std::shared_ptr<const Partition> partition;
    std::unique_ptr<PreparedSubGraph> prepared;
  };
  auto holder = std::make_shared<Holder>(Holder{sub_graph.partition, std::move(made)});
  std::shared_ptr<PreparedSubGraph> prepared(holder, holder->prepared.get());
  const std::lock_guard lock(mutex_);
  all_.erase(std::remove_if(all_.begin(), all_.end(), [](const auto& weak) { return weak.expired(); }),
             all_.end());
  all_.push_back(prepared);
  return prepared;
}

void GraphManager::give_back(const SubGraph& sub_graph, std::shared_ptr<PreparedSubGraph> prepared) {
  const std::lock_guard lock(mutex_);
  free_.emplace(key(sub_graph), std::move(prepared));
}

void GraphManager::trim(std::chrono::milliseconds patience) {
  std::multimap<Key, std::shared_ptr<PreparedSubGraph>> doomed;
  {
    const std::lock_guard lock(mutex_);
    doomed.swap(free_);
  }
  std::vector<std::pair<Key, std::future<void>>> closing;
  for (auto& [key, prepared] : doomed) {
    if (prepared->may_hang())
      closing.emplace_back(key, close_supervised(std::move(prepared)));
    else
      prepared.reset();
  }
  cache_.trim();
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::string stuck;
  for (const auto& [key, closed] : closing)
    if (closed.wait_until(deadline) != std::future_status::ready)
      stuck += (stuck.empty() ? "" : ", ") + layer_range(std::get<2>(key), std::get<3>(key)) + " on " +
               std::get<0>(key);
  if (!stuck.empty())
    throw TimeoutError("did not close in " + std::to_string(patience.count()) + " ms: " + stuck);
}

size_t GraphManager::memory_bytes() const {
  size_t total = cache_.memory_bytes();
  const std::lock_guard lock(mutex_);
  for (const auto& weak : all_)
    if (const auto prepared = weak.lock()) total += prepared->memory_bytes();
  return total;
}

std::vector<std::string> GraphManager::warnings() const {
  std::vector<std::string> lines;
  for (const auto& pool : pools_)
    if (!pool->warning().empty()) lines.push_back(pool->warning());
  return lines;
}

}  // namespace piqi
