#include "piqi/graph_executor.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "frequency_changes.hpp"

namespace piqi {
namespace {

using Clock = Channel::Clock;

int64_t now_ns() {
  return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

// A thread that hangs gets this long to notice that its channels are closed before it is given up.
constexpr std::chrono::milliseconds grace{200};

void check_range(const char* option, size_t value, size_t least, size_t most) {
  if (value < least || value > most)
    throw PlanError(std::string(option) + " must be between " + std::to_string(least) + " and " +
                    std::to_string(most) + ", got " + std::to_string(value));
}

}  // namespace

/// What a configuration is; shared with the threads, which may outlive the executor if a backend hangs.
struct GraphExecutor::Setup {
  explicit Setup(Plan its_plan) : plan(std::move(its_plan)) {}

  std::shared_ptr<GraphManager> manager;
  const Plan plan;
  CutGraph cut;
  ExecutorOptions options;
  std::shared_ptr<Governor> governor;
  std::shared_ptr<PowerMarker> marker;
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::unique_ptr<Recorder> frame_recorder;
};

/// Prepared sub-graphs, channels and threads, from the first frame until close() or a hang.
class GraphExecutor::Session : public std::enable_shared_from_this<Session> {
 public:
  explicit Session(std::shared_ptr<const Setup> setup)
      : setup_(std::move(setup)),
        frequencies_(setup_->manager->board(), setup_->cut, setup_->plan, setup_->governor,
                     setup_->options.frames_in_flight == 1) {
    const CutGraph& cut = setup_->cut;
    for (const SubGraph& sub_graph : cut.sub_graphs) {
      stages_.push_back(std::make_unique<Stage>());
      stages_.back()->row.resize(row_width(sub_graph));
      stages_.back()->ahead_ns.resize(sub_graph.steps.size());
    }
    try {
      prepare();
    } catch (...) {
      for (size_t i = 0; i < stages_.size(); ++i) give_back(i);
      throw;
    }
  }

  void start() {
    try {
      for (size_t i = 0; i < stages_.size(); ++i)
        stages_[i]->thread = std::thread([self = shared_from_this(), i] { self->work(i); });
    } catch (const std::system_error& error) {
      stop();
      throw BackendError(std::string("cannot start a thread: ") + error.what());
    }
  }

  void submit(const void* const* inputs) {
    const std::lock_guard one_at_a_time(submit_mutex_);
    const Clock::time_point deadline = Clock::now() + setup_->options.timeout;
    int64_t start = 0;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait_until(lock, deadline, [&] { return closed_ || in_flight() < submitted_ns_.size(); }))
        throw TimeoutError("no place for another frame: " + std::to_string(submitted_ns_.size()) +
                           " are in flight and none was received");
      start = now_ns();
    }
    // All of them before the first is filled: a frame that finds no place leaves nothing behind.
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (inputs_[i]) input_data_[i] = inputs_[i]->acquire(deadline);
    {
      const std::lock_guard lock(mutex_);
      if (closed_) throw ClosedError("the executor was closed");
      submitted_ns_[submitted_++ % submitted_ns_.size()] = start;
    }
    changed_.notify_all();
    const int64_t begin = now_ns();
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!inputs_[i]) continue;
      inputs_[i]->announce(Clock::time_point(std::chrono::nanoseconds(begin + copy_ns_)), true);
      std::memcpy(input_data_[i], inputs[i], inputs_[i]->size_bytes());
      inputs_[i]->publish();
    }
    copy_ns_ += (now_ns() - begin - copy_ns_) / 4;
    announce(input_followers_);
  }

  /// Returns the error that came in place of the frame, if one did.
  std::exception_ptr receive(void* const* outputs) {
    const std::lock_guard one_at_a_time(receive_mutex_);
    const std::chrono::milliseconds timeout = setup_->options.timeout;
    int64_t times[2];
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait_until(lock, Clock::now() + timeout, [&] { return closed_ || in_flight() > 0; }))
        throw TimeoutError("there is no frame to receive");
      if (closed_) throw ClosedError("the executor was closed");
      times[0] = submitted_ns_[received_ % submitted_ns_.size()];
    }
    const Clock::time_point deadline{std::chrono::nanoseconds(times[0]) + timeout};
    std::exception_ptr error;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      Channel::Received got;
      try {
        got = receive(outputs_[i], nullptr, deadline);
      } catch (const TimeoutError&) {
        hangs_ = true;
        const std::string layers = busy();
        throw TimeoutError("no result within " + std::to_string(timeout.count()) + " ms" +
                           (layers.empty() ? "" : ": " + layers + " did not finish"));
      }
      if (got.error) error = got.error;
      // A receiver of the caller's own format: what it holds has the tensor's size.
      if (got.data) std::memcpy(outputs[i], got.data, output_bytes_[i]);
      outputs_[i].channel->release(outputs_[i].receiver);
    }
    times[1] = now_ns();
    {
      const std::lock_guard lock(mutex_);
      ++received_;
    }
    changed_.notify_all();
    if (!error) setup_->frame_recorder->add(times);
    return error;
  }

  /// True after a frame took longer than the timeout.
  bool hangs() const { return hangs_; }

  /// Ends the threads; a thread that does not end is left to itself, with what it holds.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (auto& channel : channels_) channel->close();
    const Clock::time_point deadline = Clock::now() + grace;
    for (size_t i = 0; i < stages_.size(); ++i) {
      Stage& stage = *stages_[i];
      if (!stage.thread.joinable()) {
        give_back(i);
        continue;
      }
      {
        std::unique_lock lock(mutex_);
        // A backend that cannot hang is always waited for.
        const auto ended = [&] { return stage.ended; };
        if (stage.prepared->may_hang())
          changed_.wait_until(lock, deadline, ended);
        else
          changed_.wait(lock, ended);
        if (!stage.ended) {
          stage.thread.detach();
          continue;
        }
      }
      stage.thread.join();
      give_back(i);
    }
  }

  size_t memory_bytes() const {
    size_t total = 0;
    for (const auto& channel : channels_) total += channel->memory_bytes();
    return total;
  }

  static size_t row_width(const SubGraph& sub_graph) {
    return 3 * sub_graph.receivers.size() + 2 + 4 * sub_graph.steps.size() + 1;
  }

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
    std::vector<int64_t> ahead_ns;        // step -> expected time from its begin to the end of the last
    std::atomic<int64_t> expected_ns{0};  // that of the first, for other threads
    std::atomic<bool> busy{false};
    bool ended = false;  // under mutex_
    std::thread thread;
  };

  void prepare() {
    const CutGraph& cut = setup_->cut;
    const bool alone = one_at_a_time();
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i]->prepared = setup_->manager->take(cut.sub_graphs[i]);
      stages_[i]->prepared->share_memory(alone);
      stages_[i]->prepared->measure_kernels(setup_->options.measure_kernels);
    }
    const Graph& graph = setup_->manager->graph();
    inputs_.resize(graph.inputs().size());
    outputs_.resize(graph.outputs().size());
    for (const Edge& edge : cut.edges) connect(graph, edge);
    for (auto& stage : stages_) {
      stage->input_data.resize(stage->inputs.size());
      stage->output_data.resize(stage->outputs.size());
    }
    input_data_.resize(inputs_.size());
    submitted_ns_.resize(setup_->options.frames_in_flight);
  }

  // True if no two sub-graphs ever run at once: a single frame, and each waits for the one before it.
  bool one_at_a_time() const {
    std::vector<bool> waits(stages_.size());
    waits[0] = true;
    for (const Edge& edge : setup_->cut.edges)
      for (size_t receiver : edge.receivers)
        if (receiver != npos && edge.sender != npos && receiver == edge.sender + 1) waits[receiver] = true;
    return setup_->options.frames_in_flight == 1 &&
           std::find(waits.begin(), waits.end(), false) == waits.end();
  }

  void give_back(size_t index) {
    Stage& stage = *stages_[index];
    if (!stage.prepared) return;
    stage.prepared->measure_kernels(false);
    stage.prepared->share_memory(true);
    setup_->manager->give_back(setup_->cut.sub_graphs[index], std::move(stage.prepared));
  }

  uint64_t in_flight() const { return submitted_ - received_; }

  /// "layers 3 to 5 on N": the sub-graphs that are at work.
  std::string busy() const {
    std::string text;
    for (size_t i = 0; i < stages_.size(); ++i) {
      if (!stages_[i]->busy) continue;
      const SubGraph& sub_graph = setup_->cut.sub_graphs[i];
      text += (text.empty() ? "layers " : ", layers ") + std::to_string(sub_graph.first_layer) + " to " +
              std::to_string(sub_graph.last_layer) + " on " +
              setup_->manager->board().processors()[sub_graph.processor].letter;
    }
    return text;
  }

  void connect(const Graph& graph, const Edge& edge) {
    const Tensor& tensor = graph.tensor(edge.tensor);
    const Format own{tensor.type, tensor.quantization, Layout::Nhwc};
    const auto index_in = [&](const std::vector<TensorId>& ids) {
      return static_cast<size_t>(std::find(ids.begin(), ids.end(), edge.tensor) - ids.begin());
    };
    Format format = own;
    Allocator allocate;
    if (edge.sender != npos) {
      PreparedSubGraph& sender = *stages_[edge.sender]->prepared;
      const size_t i = index_in(setup_->cut.sub_graphs[edge.sender].senders);
      format = sender.output_format(i);
      allocate = [&sender, i] { return sender.output_memory(i); };
    }
    channels_.push_back(
        std::make_unique<Channel>(tensor.name, tensor.shape, format, capacity(edge), allocate));
    Channel* channel = channels_.back().get();
    if (edge.sender == npos)
      inputs_[index_in(graph.inputs())] = channel;
    else
      stages_[edge.sender]->outputs.push_back(channel);
    for (size_t receiver : edge.receivers) {
      if (receiver == npos) {
        outputs_[index_in(graph.outputs())] = {channel,
                                               channel->add_receiver(own, watches(edge.sender, npos))};
        continue;
      }
      auto& followers = edge.sender == npos ? input_followers_ : stages_[edge.sender]->followers;
      if (std::find(followers.begin(), followers.end(), receiver) == followers.end())
        followers.push_back(receiver);
      const size_t i = index_in(setup_->cut.sub_graphs[receiver].receivers);
      PreparedSubGraph& prepared = *stages_[receiver]->prepared;
      stages_[receiver]->inputs.push_back(
          {channel, channel->add_receiver(prepared.input_format(i), watches(edge.sender, receiver),
                                          [&prepared, i] { return prepared.input_memory(i); })});
    }
    output_bytes_.resize(outputs_.size());
    if (edge.receivers.back() == npos) output_bytes_[index_in(graph.outputs())] = tensor.size_bytes();
  }

  // Whether a receiver may look out for its frame: not where it would keep the sender from its CPU.
  bool watches(size_t sender, size_t receiver) const {
    if (std::thread::hardware_concurrency() < 2) return false;
    const std::vector<int> anywhere;
    const auto cpus = [&](size_t stage) -> const std::vector<int>& {
      return stage == npos ? anywhere : setup_->manager->pool(setup_->cut.sub_graphs[stage].processor).cpus();
    };
    const std::vector<int>&from = cpus(sender), &to = cpus(receiver);
    return std::none_of(from.begin(), from.end(),
                        [&](int cpu) { return std::find(to.begin(), to.end(), cpu) != to.end(); });
  }

  // As many buffers as frames can lie between the two ends, so that a skip connection does not stall the
  // pipeline.
  size_t capacity(const Edge& edge) const {
    const size_t frames = setup_->options.frames_in_flight;
    if (edge.receivers.back() == npos) return frames;
    const size_t sender = edge.sender == npos ? 0 : edge.sender + 1;
    return std::min(frames, edge.receivers.back() + 1 - sender + 1);
  }

  void work(size_t index) {
    setup_->manager->pool(setup_->cut.sub_graphs[index].processor).pin_this_thread();
    prctl(PR_SET_TIMERSLACK, 1);  // for the alarm that precedes an expected frame
    try {
      for (;;) frame(index);
    } catch (const ClosedError&) {
      // The session is over.
    }
    {
      const std::lock_guard lock(mutex_);
      stages_[index]->ended = true;
    }
    changed_.notify_all();
  }

  void frame(size_t index) {
    Stage& stage = *stages_[index];
    const ThreadPool& pool = setup_->manager->pool(setup_->cut.sub_graphs[index].processor);
    int64_t* time = stage.row.data();
    std::exception_ptr error;
    for (size_t i = 0; i < stage.inputs.size(); ++i) {
      const Inlet& inlet = stage.inputs[i];
      const Channel::Received got = receive(inlet, pool.get(), Clock::time_point::max());
      if (got.error) error = got.error;
      stage.input_data[i] = got.data;
      *time++ = got.published_ns;
      *time++ = got.received_ns;
      *time++ = now_ns();
    }
    for (size_t i = 0; i < stage.outputs.size(); ++i) stage.output_data[i] = stage.outputs[i]->acquire();
    if (!error) {
      stage.busy = true;
      try {
        run(index, time);
      } catch (...) {
        error = std::current_exception();
      }
      stage.busy = false;
    }
    // Before the frame goes on: who has received it finds its times.
    if (!error && !closed_) {
      stage.row.back() = now_ns();
      setup_->recorders[index]->add(stage.row.data());
    }
    for (Channel* output : stage.outputs) error ? output->fail(error) : output->publish();
    for (const Inlet& inlet : stage.inputs) inlet.channel->release(inlet.receiver);
    announce(stage.followers);
    // Frames that come without a pause find the only sub-graph awake.
    if (stages_.size() == 1)
      for (const Inlet& inlet : stage.inputs) inlet.channel->announce(Clock::now(), false);
  }

  // A conversion that fails costs its frame, not the thread.
  static Channel::Received receive(const Inlet& inlet, pthreadpool_t pool, Clock::time_point deadline) {
    try {
      return inlet.channel->receive(inlet.receiver, pool, deadline);
    } catch (const ClosedError&) {
      throw;
    } catch (const TimeoutError&) {
      throw;
    } catch (...) {
      Channel::Received failed;
      failed.error = std::current_exception();
      return failed;
    }
  }

  void run(size_t index, int64_t* time) {
    Stage& stage = *stages_[index];
    const SubGraph& sub_graph = setup_->cut.sub_graphs[index];
    const pthreadpool_t pool = setup_->manager->pool(sub_graph.processor).get();
    const int64_t asked = *time++ = now_ns();
    announce(stage, asked + stage.expected_ns, false);
    frequencies_.ask(index, 0);
    *time++ = now_ns();
    stage.prepared->bind(stage.input_data.data(), stage.output_data.data());
    const int64_t* const begins = time;
    for (size_t step = 0; step < sub_graph.steps.size(); ++step) {
      if (closed_) throw ClosedError("the executor was closed");
      *time = now_ns();
      announce(stage, *time++ + stage.ahead_ns[step], false);
      if (step > 0) frequencies_.ask(index, step);
      if (setup_->marker) setup_->marker->mark(sub_graph.steps[step].first_layer);
      *time++ = now_ns();
      stage.prepared->run_step(step, pool);
      *time++ = now_ns();
      *time++ = stage.prepared->take_kernel_ns();
    }
    stage.prepared->finish();
    const int64_t end = now_ns();
    for (size_t step = 0; step < sub_graph.steps.size(); ++step) {
      stage.ahead_ns[step] += (end - begins[4 * step] - stage.ahead_ns[step]) / 4;
      frequencies_.took(index, step, begins[4 * step + 2] - (step == 0 ? asked : begins[4 * step]));
    }
    stage.expected_ns += (end - asked - stage.expected_ns) / 4;
  }

  // Wakes those who wait for these sub-graphs, to tell them when to expect a frame; done by a thread that has
  // just handed its own over, since to wake another takes time. An early guess: the sub-graphs correct it as
  // they proceed. In a pipeline threads do not wait for frames.
  void announce(const std::vector<size_t>& sub_graphs) {
    if (setup_->options.frames_in_flight > 1) return;
    for (size_t index : sub_graphs) {
      const int64_t expected_ns = stages_[index]->expected_ns;
      announce(*stages_[index], now_ns() + expected_ns - expected_ns / 8, true);
    }
  }

  static void announce(const Stage& stage, int64_t due_ns, bool wake) {
    for (Channel* output : stage.outputs)
      output->announce(Clock::time_point(std::chrono::nanoseconds(due_ns)), wake);
  }

  const std::shared_ptr<const Setup> setup_;
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

GraphExecutor::GraphExecutor(std::shared_ptr<GraphManager> manager, const Plan& plan,
                             const std::vector<std::shared_ptr<const Partition>>& partitions,
                             ExecutorOptions options, std::shared_ptr<Governor> governor,
                             std::shared_ptr<PowerMarker> marker) {
  check_range("frames_in_flight", options.frames_in_flight, 1, 1024);
  check_range("recorded_frames", options.recorded_frames, 0, 1'000'000);
  auto setup = std::make_shared<Setup>(plan);
  setup->cut = manager->cut(plan, partitions);
  for (const SubGraph& sub_graph : setup->cut.sub_graphs)
    setup->recorders.push_back(
        std::make_unique<Recorder>(Session::row_width(sub_graph), options.recorded_frames));
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

std::shared_ptr<GraphExecutor::Session> GraphExecutor::session() {
  const std::lock_guard lock(mutex_);
  if (closed_) throw ClosedError("the executor was closed");
  if (!session_) {
    session_ = std::make_shared<Session>(setup_);
    session_->start();
  }
  return session_;
}

void GraphExecutor::abandon(const std::shared_ptr<Session>& session) {
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
  const std::shared_ptr<Session> current = session();
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
  std::shared_ptr<Session> last;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    last = std::move(session_);
    session_.reset();
  }
  if (last) last->stop();
}

}  // namespace piqi
