// Runs the sub-graphs of a plan, one thread each, frame by frame.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "piqi/governor.hpp"
#include "piqi/graph_manager.hpp"
#include "piqi/power_marker.hpp"
#include "piqi/recorder.hpp"

namespace piqi {

struct ExecutorSetup;
class ExecutorSession;

struct ExecutorOptions {
  size_t frames_in_flight = 1;                // 1: switching mode (latency); more: pipeline mode (throughput)
  std::chrono::milliseconds timeout{60'000};  // for one frame
  size_t recorded_frames = 1024;
  bool measure_kernels = false;
};

/// Times of the last frames, in ns of the steady clock (durations: ns).
struct ExecutorTimes {
  /// A row a frame for each sub-graph: for each receiver (published by its sender, received, converted);
  /// first frequency asked for, bound from; for each step (next frequency asked for, begin, end, time inside
  /// kernels); then sent.
  std::vector<std::vector<int64_t>> sub_graphs;
  std::vector<int64_t> frames;  // (submitted, received) for each frame
};
/// Numbers in a row of a sub-graph's times.
size_t row_width(const SubGraph& sub_graph);

/// Switching mode is pipeline mode with one frame in flight. A frame that fails throws from the receive() it
/// belongs to and leaves the executor usable; so does a frame that takes longer than the timeout: the
/// sub-graph that hangs is given up and prepared anew, and the other frames in flight are lost. Threads: any
/// may call; frames are received in the order in which they were submitted, run() by run().
class GraphExecutor {
 public:
  /// Throws PlanError, PartitionError, UnsupportedError, BackendError.
  GraphExecutor(std::shared_ptr<GraphManager> manager, const Plan& plan,
                const std::vector<std::shared_ptr<const Partition>>& partitions, ExecutorOptions options = {},
                std::shared_ptr<Governor> governor = nullptr, std::shared_ptr<PowerMarker> marker = nullptr);
  ~GraphExecutor();
  GraphExecutor(const GraphExecutor&) = delete;
  GraphExecutor& operator=(const GraphExecutor&) = delete;

  const Graph& graph() const;
  const CutGraph& cut() const;

  /// Hands in a frame: dense buffers in the order of the graph's inputs, copied before it returns. Waits
  /// while `frames_in_flight` frames are on their way.
  void submit(const void* const* inputs);
  /// Takes the oldest frame's outputs, in the order of the graph's outputs.
  void receive(void* const* outputs);
  void run(const void* const* inputs, void* const* outputs);

  ExecutorTimes times() const;
  void clear_times();
  /// Bytes of channels (arenas and weights are the manager's).
  size_t memory_bytes() const;
  /// Stops the threads and gives the prepared sub-graphs back. Idempotent; frames in flight are lost.
  void close();

 private:
  std::shared_ptr<ExecutorSession> session();
  void abandon(const std::shared_ptr<ExecutorSession>& session);

  std::shared_ptr<const ExecutorSetup> setup_;
  std::mutex run_mutex_;
  mutable std::mutex mutex_;
  std::shared_ptr<ExecutorSession> session_;
  bool closed_ = false;
};

}  // namespace piqi
