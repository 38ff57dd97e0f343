// Frames that fail, hang or come too late, executors that are closed or cannot be made.
#include <condition_variable>
#include <future>
#include <stdexcept>
#include <thread>

#include "executor_fixture.hpp"

namespace piqi_test {

using piqi::BackendError;
using piqi::ClosedError;
using piqi::TimeoutError;

namespace {

/// A door that threads wait at until it is opened.
class Door {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  /// Until `count` have come.
  void wait_for_visitor(int count = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= count; });
  }
  int visitors() {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
};

/// For a test on short timeouts: a machine that stands still spoils one try, not all.
template <typename Attempt>
void in_some_try(const Attempt& attempt) {
  for (int i = 0; i < 19; ++i) {
    try {
      return attempt();
    } catch (const TimeoutError&) {
    }
  }
  attempt();
}

}  // namespace

TEST_CASE("a frame that fails throws where it is received, and only there") {
  Watched fixture;
  std::atomic<int> count{0};
  fixture.backend->before_step = [&](const piqi::SubGraph& sub_graph, size_t step, float) {
    if (step == 0 && count++ % 5 == 3)
      throw BackendError("frame of layer " + std::to_string(sub_graph.first_layer));
  };
  for (size_t in_flight : {1, 2, 3, 5, 8}) {
    count = 0;
    const auto executor = fixture.start(options(in_flight));
    std::vector<Frame> inputs;
    for (uint32_t i = 0; i < 20; ++i) inputs.push_back(Frame::random(*fixture.graph, i));
    size_t submitted = 0;
    for (size_t received = 0; received < 20; ++received) {
      while (submitted < 20 && submitted - received < in_flight) executor->submit(inputs[submitted++].in());
      INFO("frame " << received << ", " << in_flight << " in flight");
      if (received % 5 == 3)
        CHECK(message<BackendError>([&] { receive(*executor); }) == "frame of layer 2");
      else
        CHECK(receive(*executor) == uncut(fixture.graph, inputs[received]));
    }
    CHECK(executor->times().frames.size() == 2 * 16);  // failed frames have no times
    CHECK(executor->times().sub_graphs[2].size() % 16 == 0);
  }
  CHECK(fixture.backend->prepared == 1);  // a failure costs no preparation
}

TEST_CASE("whatever type is thrown arrives as it is") {
  Watched fixture;
  const auto executor = fixture.start(options(1));
  const Frame inputs = Frame::random(*fixture.graph, 1);
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t, float) { throw std::bad_alloc(); };
  CHECK_THROWS_AS(run(*executor, inputs), std::bad_alloc);
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t, float) { throw 42; };
  CHECK_THROWS_AS(run(*executor, inputs), int);
  // A backend's own TimeoutError is an error of its frame, not a hang.
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t, float) { throw TimeoutError("bus"); };
  CHECK(message<TimeoutError>([&] { run(*executor, inputs); }) == "bus");
  fixture.backend->before_step = nullptr;
  CHECK(run(*executor, inputs) == uncut(fixture.graph, inputs));
  CHECK(fixture.backend->prepared == 1);
}

TEST_CASE("a hang is named, given up, and replaced") {
  auto door = std::make_shared<Door>();
  Watched fixture;
  fixture.backend->may_hang = true;
  std::atomic<bool> hang{false};
  fixture.backend->before_step = [&hang, door](const piqi::SubGraph&, size_t step, float) {
    if (step == 1 && hang) door->wait();
  };
  const Frame inputs = Frame::random(*fixture.graph, 5), expected = uncut(fixture.graph, inputs);
  for (size_t in_flight : {1, 3})
    in_some_try([&] {
      hang = false;  // a try before may have left it so
      const auto executor = fixture.start(options(in_flight, 150ms));
      const Frame before = run(*executor, inputs);
      CHECK(before == expected);
      const size_t memory = fixture.manager->memory_bytes();
      const int prepared = fixture.backend->prepared, visitors = door->visitors();
      hang = true;
      for (size_t i = 0; i < in_flight; ++i) executor->submit(inputs.in());
      door->wait_for_visitor(visitors + 1);
      std::this_thread::sleep_for(20ms);  // L goes on with the frames behind, and waits
      const std::string text = message<TimeoutError>([&] { receive(*executor); });
      if (text.find("layers 0 to 1") != std::string::npos) throw TimeoutError(text);  // L was held up
      CHECK_CONTAINS(text, "no result within 150 ms: layers 2 to 3 on B did not finish");
      hang = false;
      const Frame after = run(*executor, inputs);
      CHECK(after == expected);
      CHECK(fixture.backend->prepared == prepared + 1);  // B anew; L and C as they were
      CHECK(fixture.manager->memory_bytes() - memory < memory / 4);
      // The frames behind the one that hung are lost.
      CHECK_CONTAINS(message<TimeoutError>([&] { receive(*executor); }), "there is no frame to receive");
    });
  door->open();  // what was given up ends by itself and is closed
  for (int i = 0; i < 60'000 && fixture.backend->closed < fixture.backend->prepared; ++i) {
    fixture.manager->trim(60s);
    std::this_thread::sleep_for(1ms);
  }
  CHECK(fixture.backend->closed == fixture.backend->prepared);
}

TEST_CASE("the timeout is a frame's, not that of an idle wait for one") {
  Watched fixture;
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t step, float) {
    if (step == 0) std::this_thread::sleep_for(200ms);
  };
  const Frame inputs = Frame::random(*fixture.graph, 1), expected = uncut(fixture.graph, inputs);
  in_some_try([&] {
    const auto executor = fixture.start(options(1, 400ms));
    auto late = std::async(std::launch::async, [&] {
      std::this_thread::sleep_for(300ms);
      executor->submit(inputs.in());
    });
    const Frame got = receive(*executor);
    late.get();
    CHECK(got == expected);
  });
}

TEST_CASE("without a receiver a submit times out and leaves nothing behind") {
  const auto graph = branched();
  const Frame a = Frame::random(*graph, 1), b = Frame::random(*graph, 2), c = Frame::random(*graph, 3);
  in_some_try([&] {
    const auto executor = make_executor(make_manager(graph), "LBLBLB", {}, options(2, 100ms));
    executor->submit(a.in());
    executor->submit(b.in());
    CHECK_CONTAINS(message<TimeoutError>([&] { executor->submit(c.in()); }),
                   "2 are in flight and none was received");
    const Frame first = receive(*executor);
    executor->submit(c.in());
    const Frame second = receive(*executor), third = receive(*executor);
    CHECK(first == uncut(graph, a));
    CHECK(second == uncut(graph, b));
    CHECK(third == uncut(graph, c));
    CHECK_CONTAINS(message<TimeoutError>([&] { receive(*executor); }), "there is no frame to receive");
    const Frame again = run(*executor, a);
    CHECK(again == uncut(graph, a));
  });
}

TEST_CASE("close ends waits in other threads, and every later call") {
  Watched fixture;
  Door door;
  fixture.backend->before_step = [&](const piqi::SubGraph&, size_t step, float) {
    if (step == 0) door.wait();
  };
  const auto executor = fixture.start(options(1));
  const Frame inputs = Frame::random(*fixture.graph, 1);
  const auto closed = [&](auto call) {
    return std::async(std::launch::async, [call] { return message<ClosedError>(call); });
  };
  executor->submit(inputs.in());
  door.wait_for_visitor();
  auto receiving = closed([&] { receive(*executor); });
  auto submitting = closed([&] { executor->submit(inputs.in()); });
  std::this_thread::sleep_for(20ms);
  std::thread closing(
      [&] { executor->close(); });  // waits for the step at the door: this backend cannot hang
  CHECK_CONTAINS(receiving.get(), "closed");
  CHECK_CONTAINS(submitting.get(), "closed");
  door.open();
  closing.join();
  executor->close();
  CHECK_CONTAINS(message<ClosedError>([&] { run(*executor, inputs); }), "the executor was closed");
  CHECK(executor->memory_bytes() == 0);
}

TEST_CASE("an executor may go with frames in flight, and its sub-graphs are used again") {
  Watched fixture;
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t, float) {
    std::this_thread::sleep_for(5ms);
  };
  const Frame inputs = Frame::random(*fixture.graph, 1);
  for (size_t in_flight = 1; in_flight < 6; ++in_flight) {
    const auto executor = fixture.start(options(in_flight));
    for (size_t i = 0; i < in_flight; ++i) executor->submit(inputs.in());
  }
  CHECK(fixture.backend->prepared == 1);
  CHECK(run(*fixture.start(options(1)), inputs) == uncut(fixture.graph, inputs));
}

TEST_CASE("what cannot be prepared gives back what was") {
  Watched fixture;
  const auto good = fixture.start(options(1));
  good->close();
  // C is no longer the XNNPACK backend's: its partition holds nothing to run.
  std::vector<piqi::Processor> processors = make_watched_board()->processors();
  processors[2].kind = piqi::ProcessorKind::Npu;
  const auto board = std::make_shared<const piqi::Board>("broken", processors);
  fixture.manager = make_manager(fixture.graph, board, {{"watched", fixture.backend}});
  const auto empty = std::make_shared<const piqi::Partition>(piqi::Partition{4, 5, nullptr, "x.rknn", ""});
  const int prepared = fixture.backend->prepared;
  for (int i = 0; i < 3; ++i)
    CHECK_CONTAINS(
        message<piqi::PartitionError>([&] { make_executor(fixture.manager, Watched::order, {empty}); }),
        "x.rknn");
  CHECK(fixture.backend->prepared == prepared + 1);  // layers 2 to 3, once
}

TEST_CASE("options out of range are refused") {
  const auto manager = make_manager(chain(2));
  CHECK_CONTAINS(message<piqi::PlanError>([&] { make_executor(manager, "LB", {}, options(0)); }),
                 "frames_in_flight must be between 1 and 1024, got 0");
  CHECK_CONTAINS(message<piqi::PlanError>([&] { make_executor(manager, "LB", {}, options(npos)); }),
                 "frames_in_flight");
  ExecutorOptions endless;
  endless.recorded_frames = npos;
  CHECK_CONTAINS(message<piqi::PlanError>([&] { make_executor(manager, "LB", {}, endless); }),
                 "recorded_frames");
}

}  // namespace piqi_test
