#include "piqi/graph_executor.hpp"

#include <string>
#include <utility>

#include "executor_session.hpp"

namespace piqi {
namespace {

void check_range(const char* option, size_t value, size_t least, size_t most) {
  if (value < least || value > most)
    throw PlanError(std::string(option) + " must be between " + std::to_string(least) + " and " +
                    std::to_string(most) + ", got " + std::to_string(value));
}

}  // namespace

size_t row_width(const SubGraph& sub_graph) {
  return 3 * sub_graph.receivers.size() + 2 + 4 * sub_graph.steps.size() + 1;
}

GraphExecutor::GraphExecutor(std::shared_ptr<GraphManager> manager, const Plan& plan,
                             const std::vector<std::shared_ptr<const Partition>>& partitions,
                             ExecutorOptions options, std::shared_ptr<Governor> governor,
                             std::shared_ptr<PowerMarker> marker) {
  check_range("frames_in_flight", options.frames_in_flight, 1, 1024);
  check_range("recorded_frames", options.recorded_frames, 0, 1'000'000);
  auto setup = std::make_shared<ExecutorSetup>(plan);
  setup->cut = manager->cut(plan, partitions);
  for (const SubGraph& sub_graph : setup->cut.sub_graphs)
    setup->recorders.push_back(std::make_unique<Recorder>(row_width(sub_graph), options.recorded_frames));
  setup->frame_recorder = std::make_unique<Recorder>(2, options.recorded_frames);
  setup->manager = std::move(manager);
  setup->options = options;
  setup->governor = std::move(governor);
  setup->marker = std::move(marker);
  setup_ = std::move(setup);
  session();  // so that what cannot be prepared is known now
}

GraphExecutor::~GraphExecutor() {
  close();
}

const Graph& GraphExecutor::graph() const {
  return setup_->manager->graph();
}

const CutGraph& GraphExecutor::cut() const {
  return setup_->cut;
}

std::shared_ptr<ExecutorSession> GraphExecutor::session() {
  const std::lock_guard lock(mutex_);
  if (closed_) throw ClosedError("the executor was closed");
  if (!session_) {
    session_ = std::make_shared<ExecutorSession>(setup_);
    session_->start();
  }
  return session_;
}

void GraphExecutor::abandon(const std::shared_ptr<ExecutorSession>& session) {
  {
    const std::lock_guard lock(mutex_);
    if (session_ != session) return;
    session_.reset();
  }
  session->stop();
}

void GraphExecutor::submit(const void* const* inputs) {
  session()->submit(inputs);
}

void GraphExecutor::receive(void* const* outputs) {
  const std::shared_ptr<ExecutorSession> current = session();
  std::exception_ptr error;
  try {
    error = current->receive(outputs);
  } catch (const TimeoutError&) {
    if (current->hangs()) abandon(current);
    throw;
  }
  if (error) std::rethrow_exception(error);
}

void GraphExecutor::run(const void* const* inputs, void* const* outputs) {
  const std::lock_guard one_at_a_time(run_mutex_);
  submit(inputs);
  receive(outputs);
}

ExecutorTimes GraphExecutor::times() const {
  ExecutorTimes times;
  for (const auto& recorder : setup_->recorders) times.sub_graphs.push_back(recorder->rows());
  times.frames = setup_->frame_recorder->rows();
  return times;
}

void GraphExecutor::clear_times() {
  for (const auto& recorder : setup_->recorders) recorder->clear();
  setup_->frame_recorder->clear();
}

size_t GraphExecutor::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return session_ ? session_->memory_bytes() : 0;
}

void GraphExecutor::close() {
  std::shared_ptr<ExecutorSession> last;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    last = std::move(session_);
    session_.reset();
  }
  if (last) last->stop();
}

}  // namespace piqi
