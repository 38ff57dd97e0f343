// What an executor runs its frames on: prepared sub-graphs, channels and threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "frequency_changes.hpp"
#include "piqi/graph_executor.hpp"

namespace piqi {

/// What a configuration is; shared with the threads, which may outlive the executor if a backend hangs.
struct ExecutorSetup {
  explicit ExecutorSetup(Plan its_plan) : plan(std::move(its_plan)) {}

  std::shared_ptr<GraphManager> manager;
  const Plan plan;
  CutGraph cut;
  ExecutorOptions options;
  std::shared_ptr<Governor> governor;
  std::shared_ptr<PowerMarker> marker;
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::unique_ptr<Recorder> frame_recorder;
};

/// Lives from the first frame until close() or a hang. Threads: start() first, then any may call.
class ExecutorSession : public std::enable_shared_from_this<ExecutorSession> {
 public:
  /// Takes the sub-graphs from the manager and connects them. Throws what preparing them throws.
  explicit ExecutorSession(std::shared_ptr<const ExecutorSetup> setup);
  void start();
  void submit(const void* const* inputs);
  /// Returns the error that came in place of the frame, if one did.
  std::exception_ptr receive(void* const* outputs);
  /// True after a frame took longer than the timeout.
  bool hangs() const { return hangs_; }
  /// Ends the threads; a thread that does not end is left to itself, with what it holds.
  void stop();
  size_t memory_bytes() const;

 private:
  struct Inlet {
    Channel* channel = nullptr;
    size_t receiver = 0;
  };
  struct Stage {
    std::shared_ptr<PreparedSubGraph> prepared;
    std::vector<Inlet> inputs;
    std::vector<Channel*> outputs;
    std::vector<const void*> input_data;
    std::vector<void*> output_data;
    std::vector<size_t> followers;        // the sub-graphs that read its outputs
    std::vector<int64_t> row;             // times of the frame it works on
    uint64_t frames = 0;                  // that it has run
    std::vector<int64_t> ahead_ns;        // step -> expected time from its begin to the end of the last
    std::atomic<int64_t> expected_ns{0};  // that of the first, for other threads
    std::atomic<bool> busy{false};
    bool ended = false;  // under mutex_
    std::thread thread;
  };

  void prepare();
  bool one_at_a_time() const;
  void give_back(size_t index);
  void connect(const Graph& graph, const Edge& edge);
  bool watches(size_t sender, size_t receiver) const;
  size_t capacity(const Edge& edge) const;

  uint64_t in_flight() const { return submitted_ - received_; }
  std::string busy() const;
  void work(size_t index);
  void frame(size_t index);
  void run(size_t index, int64_t* time);
  static Channel::Received receive(const Inlet& inlet, pthreadpool_t pool,
                                   Channel::Clock::time_point deadline);
  void announce(const std::vector<size_t>& sub_graphs);
  static void announce(const Stage& stage, int64_t due_ns, bool wake);

  const std::shared_ptr<const ExecutorSetup> setup_;
  FrequencyChanges frequencies_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<Channel*> inputs_;  // null: an input that no operator reads
  std::vector<Inlet> outputs_;
  std::vector<size_t> output_bytes_;
  std::vector<size_t> input_followers_;  // the sub-graphs that read them
  std::vector<void*> input_data_;        // under submit_mutex_
  int64_t copy_ns_ = 0;                  // under submit_mutex_: expected time of copying a frame in

  std::mutex submit_mutex_, receive_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> submitted_ns_;  // a ring of the frames in flight
  uint64_t submitted_ = 0, received_ = 0;
  std::atomic<bool> closed_{false};  // written under mutex_
  std::atomic<bool> hangs_{false};
};

}  // namespace piqi
