// An executor's session before its first frame and after its last: sub-graphs taken, connected, given back.
#include <algorithm>
#include <system_error>

#include "executor_session.hpp"

namespace piqi {

ExecutorSession::ExecutorSession(std::shared_ptr<const ExecutorSetup> setup)
    : setup_(std::move(setup)),
      frequencies_(setup_->manager->board(), setup_->cut, setup_->plan, setup_->governor,
                   setup_->options.frames_in_flight > 1) {
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

void ExecutorSession::prepare() {
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
bool ExecutorSession::one_at_a_time() const {
  std::vector<bool> waits(stages_.size());
  waits[0] = true;
  for (const Edge& edge : setup_->cut.edges)
    for (size_t receiver : edge.receivers)
      if (receiver != npos && edge.sender != npos && receiver == edge.sender + 1) waits[receiver] = true;
  return setup_->options.frames_in_flight == 1 && std::find(waits.begin(), waits.end(), false) == waits.end();
}

void ExecutorSession::connect(const Graph& graph, const Edge& edge) {
  const Tensor& tensor = graph.tensor(edge.tensor);
  const Format own = format_of(tensor);
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
  channels_.push_back(std::make_unique<Channel>(tensor.name, tensor.shape, format, capacity(edge), allocate));
  Channel* channel = channels_.back().get();
  if (edge.sender == npos)
    inputs_[index_in(graph.inputs())] = channel;
  else
    stages_[edge.sender]->outputs.push_back(channel);
  for (size_t receiver : edge.receivers) {
    if (receiver == npos) {
      outputs_[index_in(graph.outputs())] = {channel, channel->add_receiver(own, watches(edge.sender, npos))};
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
bool ExecutorSession::watches(size_t sender, size_t receiver) const {
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
size_t ExecutorSession::capacity(const Edge& edge) const {
  const size_t frames = setup_->options.frames_in_flight;
  if (edge.receivers.back() == npos) return frames;
  const size_t sender = edge.sender == npos ? 0 : edge.sender + 1;
  return std::min(frames, edge.receivers.back() + 1 - sender + 1);
}

void ExecutorSession::start() {
  try {
    for (size_t i = 0; i < stages_.size(); ++i)
      stages_[i]->thread = std::thread([self = shared_from_this(), i] { self->work(i); });
  } catch (const std::system_error& error) {
    stop();
    throw BackendError(std::string("cannot start a thread: ") + error.what());
  }
}

void ExecutorSession::give_back(size_t index) {
  Stage& stage = *stages_[index];
  if (!stage.prepared) return;
  stage.prepared->measure_kernels(false);
  stage.prepared->share_memory(true);
  setup_->manager->give_back(setup_->cut.sub_graphs[index], std::move(stage.prepared));
}

}  // namespace piqi
