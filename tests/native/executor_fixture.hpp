// What the tests of the executor share.
#pragma once

#include "network.hpp"

namespace piqi_test {

using piqi::ExecutorOptions;
using piqi::GraphExecutor;
using namespace std::chrono_literals;

inline Frame run(GraphExecutor& executor, const Frame& inputs) {
  Frame outputs = Frame::outputs(executor.graph());
  executor.run(inputs.in(), outputs.out());
  return outputs;
}

inline Frame receive(GraphExecutor& executor) {
  Frame outputs = Frame::outputs(executor.graph());
  executor.receive(outputs.out());
  return outputs;
}

inline ExecutorOptions options(size_t frames_in_flight, std::chrono::milliseconds timeout = 60s) {
  ExecutorOptions result;
  result.frames_in_flight = frames_in_flight;
  result.timeout = timeout;
  return result;
}

/// Six layers in a row; layers 2 and 3 on B, whose behaviour the test chooses.
struct Watched {
  std::shared_ptr<const Graph> graph = chain(6);
  std::shared_ptr<WatchedBackend> backend = std::make_shared<WatchedBackend>();
  std::shared_ptr<piqi::GraphManager> manager;
  static constexpr const char* order = "LLBBCC";

  std::unique_ptr<GraphExecutor> start(const ExecutorOptions& options) {
    if (!manager) manager = make_manager(graph, make_watched_board(), {{"watched", backend}});
    return make_executor(manager, order, {}, options);
  }
};

/// Sets what it is asked for, and tells.
class ObedientGovernor final : public piqi::Governor {
 public:
  explicit ObedientGovernor(const piqi::Board& board) : now_(board.frequency_domains().size(), unknown) {}
  bool request(size_t domain, size_t index) override {
    const std::lock_guard lock(mutex_);
    changes_ += now_[domain] != index;
    return std::exchange(now_[domain], index) != index;
  }
  bool controls(size_t) const override { return true; }
  size_t in_force(size_t domain) const override {
    const std::lock_guard lock(mutex_);
    return now_[domain];
  }
  void restore() noexcept override {}
  std::vector<std::string> warnings() const override { return {}; }
  /// Since the last call.
  size_t take_changes() {
    const std::lock_guard lock(mutex_);
    return std::exchange(changes_, 0);
  }

 private:
  mutable std::mutex mutex_;
  std::vector<size_t> now_;
  size_t changes_ = 0;
};

}  // namespace piqi_test
