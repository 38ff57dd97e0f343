// The loop that frames run through.
#include "executor_session.hpp"

#include <sys/prctl.h>

#include <cstring>

namespace piqi {
namespace {

using Clock = Channel::Clock;

int64_t now_ns() {
  return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

// A thread that hangs gets this long to notice that its channels are closed before it is given up.
constexpr std::chrono::milliseconds grace{200};
constexpr std::chrono::milliseconds look_again{5};  // whether it is still in its backend

}  // namespace

void ExecutorSession::submit(const void* const* inputs) {
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

std::exception_ptr ExecutorSession::receive(void* const* outputs) {
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

void ExecutorSession::stop() {
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
      // A backend that cannot hang is always waited for, and so is a thread that is late but not in its
      // backend.
      const auto hangs = [&] { return stage.prepared->may_hang() && stage.busy && Clock::now() >= deadline; };
      while (!stage.ended && !hangs()) changed_.wait_for(lock, look_again);
      if (!stage.ended) {
        stage.thread.detach();
        continue;
      }
    }
    stage.thread.join();
    give_back(i);
  }
}

size_t ExecutorSession::memory_bytes() const {
  size_t total = 0;
  for (const auto& channel : channels_) total += channel->memory_bytes();
  return total;
}

std::string ExecutorSession::busy() const {
  std::string text;
  for (size_t i = 0; i < stages_.size(); ++i) {
    if (!stages_[i]->busy) continue;
    const SubGraph& sub_graph = setup_->cut.sub_graphs[i];
    text += (text.empty() ? "" : ", ") + layer_range(sub_graph) + " on " +
            setup_->manager->board().processors()[sub_graph.processor].letter;
  }
  return text;
}

void ExecutorSession::work(size_t index) {
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

void ExecutorSession::frame(size_t index) {
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
Channel::Received ExecutorSession::receive(const Inlet& inlet, pthreadpool_t pool,
                                           Clock::time_point deadline) {
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

void ExecutorSession::run(size_t index, int64_t* time) {
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
  // The first frame is slower than any other: the second begins the averages.
  const auto follow = [first = stage.frames++ < 2](auto& average_ns, int64_t time_ns) {
    average_ns = first ? time_ns : average_ns + (time_ns - average_ns) / 4;
  };
  for (size_t step = 0; step < sub_graph.steps.size(); ++step) {
    follow(stage.ahead_ns[step], end - begins[4 * step]);
    frequencies_.took(index, step, begins[4 * step + 2] - (step == 0 ? asked : begins[4 * step]));
  }
  follow(stage.expected_ns, end - asked);
}

// Wakes those who wait for these sub-graphs, to tell them when to expect a frame; done by a thread that has
// just handed its own over, since to wake another takes time. An early guess: the sub-graphs correct it as
// they proceed. In a pipeline threads do not wait for frames.
void ExecutorSession::announce(const std::vector<size_t>& sub_graphs) {
  if (setup_->options.frames_in_flight > 1) return;
  for (size_t index : sub_graphs) {
    const int64_t expected_ns = stages_[index]->expected_ns;
    announce(*stages_[index], now_ns() + expected_ns - expected_ns / 8, true);
  }
}

void ExecutorSession::announce(const Stage& stage, int64_t due_ns, bool wake) {
  for (Channel* output : stage.outputs)
    output->announce(Clock::time_point(std::chrono::nanoseconds(due_ns)), wake);
}

}  // namespace piqi
