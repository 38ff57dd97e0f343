// Cut runs against the uncut graph: any order, either mode, quantised partitions, faults and hangs.
#include <condition_variable>
#include <future>
#include <stdexcept>
#include <thread>

#include "allocation_counter.hpp"
#include "network.hpp"

namespace piqi_test {

using piqi::BackendError;
using piqi::ClosedError;
using piqi::ExecutorOptions;
using piqi::GraphExecutor;
using piqi::TimeoutError;
using namespace std::chrono_literals;

namespace {

Frame run(GraphExecutor& executor, const Frame& inputs) {
  Frame outputs = Frame::outputs(executor.graph());
  executor.run(inputs.in(), outputs.out());
  return outputs;
}

Frame receive(GraphExecutor& executor) {
  Frame outputs = Frame::outputs(executor.graph());
  executor.receive(outputs.out());
  return outputs;
}

std::string random_order(std::mt19937& random, size_t layers, const std::string& letters) {
  std::string order;
  for (size_t i = 0; i < layers; ++i) order += letters[random() % letters.size()];
  return order;
}

ExecutorOptions options(size_t frames_in_flight, std::chrono::milliseconds timeout = 60s) {
  ExecutorOptions result;
  result.frames_in_flight = frames_in_flight;
  result.timeout = timeout;
  return result;
}

/// A door that threads wait at until it is opened.
class Door {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void wait_for_visitor() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ > 0; });
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

}  // namespace

TEST_CASE("any order over full-precision processors: bit for bit the uncut graph") {
  const auto graph = branched();
  std::mt19937 random(3);
  for (size_t threads : {1, 2}) {
    const auto manager = make_manager(graph, make_board(threads));
    for (int round = 0; round < 60; ++round) {
      const std::string order = random_order(random, 6, "LBG");
      INFO(order << ", " << threads << " threads");
      const Frame inputs = Frame::random(*graph, static_cast<uint32_t>(round));
      const Frame expected = uncut(graph, inputs);
      const auto executor = make_executor(manager, order);
      for (int repeat = 0; repeat < 2; ++repeat) CHECK(run(*executor, inputs) == expected);
    }
  }
}

TEST_CASE("pipeline: frames come back in order, each with its own data") {
  const auto graph = branched();
  const auto manager = make_manager(graph);
  std::vector<Frame> inputs, expected;
  for (uint32_t i = 0; i < 20; ++i) {
    inputs.push_back(Frame::random(*graph, i));
    expected.push_back(uncut(graph, inputs.back()));
  }
  std::mt19937 random(4);
  for (size_t in_flight = 1; in_flight <= 8; ++in_flight) {
    const std::string order = in_flight == 1 ? "LBGLBG" : random_order(random, 6, "LBG");
    INFO(order << ", " << in_flight << " in flight");
    const auto executor = make_executor(manager, order, {}, options(in_flight));
    size_t submitted = 0;
    for (size_t received = 0; received < inputs.size(); ++received) {
      while (submitted < inputs.size() && submitted - received < in_flight)
        executor->submit(inputs[submitted++].in());
      CHECK(receive(*executor) == expected[received]);
    }
  }
}

TEST_CASE("one thread submits while another receives") {
  const auto graph = chain(6);
  const auto executor = make_executor(make_manager(graph), "LBLBLB", {}, options(4));
  std::vector<Frame> inputs, expected;
  for (uint32_t i = 0; i < 8; ++i) {
    inputs.push_back(Frame::random(*graph, i));
    expected.push_back(uncut(graph, inputs.back()));
  }
  std::thread sender([&] {
    for (size_t i = 0; i < 200; ++i) executor->submit(inputs[i % 8].in());
  });
  int wrong = 0;
  for (size_t i = 0; i < 200; ++i) wrong += !(receive(*executor) == expected[i % 8]);
  sender.join();
  CHECK(wrong == 0);
}

TEST_CASE("run() from several threads gives each its own frame") {
  const auto graph = chain(4);
  const auto executor = make_executor(make_manager(graph), "LBLB", {}, options(3));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const Frame inputs = Frame::random(*graph, t);
      const Frame expected = uncut(graph, inputs);
      for (int i = 0; i < 50; ++i) wrong += !(run(*executor, inputs) == expected);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("several executors on one manager at once share kernels and give right results") {
  const auto graph = branched();
  const auto manager = make_manager(graph, make_board(2));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  const char* const orders[] = {"LLLLLL", "LBGLBG", "LBGLBG", "GGBBLL"};
  for (uint32_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const auto executor = make_executor(manager, orders[t], {}, options(t % 2 ? 3 : 1));
      const Frame inputs = Frame::random(*graph, t);
      const Frame expected = uncut(graph, inputs);
      for (int i = 0; i < 40; ++i) wrong += !(run(*executor, inputs) == expected);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("an int8 range cut in two is the same int8, bit for bit") {
  const auto graph = branched();
  const Frame sample = Frame::random(*graph, 1);
  const Quantised quantised(graph, sample);
  const auto manager = make_manager(graph);
  const auto whole = make_executor(manager, "NNNNNN", {quantised.partition(0, 5)});
  const Frame expected = run(*whole, sample);
  const Frame exact = uncut(graph, sample);
  CHECK_FALSE(expected == exact);
  for (size_t output = 0; output < 3; ++output)  // quantised, but the same network
    for (size_t i = 0; i < exact.count(output); ++i)
      CHECK(std::abs(expected.floats(output)[i] - exact.floats(output)[i]) < 0.5f);
  for (size_t cut = 1; cut < 6; ++cut) {
    INFO("cut before layer " << cut);
    const std::string order = std::string(cut, 'N') + std::string(6 - cut, 'M');
    const auto halves = make_executor(
        manager, order, {quantised.partition(0, cut - 1), quantised.partition(cut, 5)}, options(2));
    CHECK(run(*halves, sample) == expected);
  }
  const auto thirds = make_executor(
      manager, "NMMNNN", {quantised.partition(0, 0), quantised.partition(1, 2), quantised.partition(3, 5)});
  CHECK(run(*thirds, sample) == expected);
}

TEST_CASE("N to N over a skip connection stays int8; to others it is converted") {
  // Layer 0 on N; layer 1 on L reads its result as float; layer 2 on N reads both.
  Network network;
  const TensorId x = network.input("x", {1, 8, 8, 8});
  const TensorId a = network.conv("a", x, 8, 0);
  const TensorId b = network.conv("b", a, 8, 1);
  const TensorId c = network.add("c", b, a, 2);
  network.output(c);
  const auto graph = network.finish();
  const Frame sample = Frame::random(*graph, 1);
  const Quantised quantised(graph, sample);
  const auto executor =
      make_executor(make_manager(graph), "NLN", {quantised.partition(0, 0), quantised.partition(2, 2)});
  const Frame result = run(*executor, sample);

  const size_t count = 8 * 8 * 8;
  const auto quantise = [&](const float* values, const piqi::Quantization& q) {
    std::vector<int8_t> stored(count);
    for (size_t i = 0; i < count; ++i)
      stored[i] = static_cast<int8_t>(std::min(
          std::max(std::nearbyint(values[i] / q.scales[0]) + static_cast<float>(q.zero_point), -128.0f),
          127.0f));
    return stored;
  };
  const auto real = [&](const std::vector<int8_t>& stored, const piqi::Quantization& q) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = q.scales[0] * static_cast<float>(stored[i] - q.zero_point);
    return values;
  };
  const auto interpret = [](const std::shared_ptr<const Graph>& part, std::vector<const void*> in,
                            void* out) { piqi::Interpreter(part, 1).run(in.data(), &out); };
  std::vector<int8_t> a8(count), c8(count);
  std::vector<float> b32(count);
  const auto x8 = quantise(sample.floats(0), quantised.of("x"));
  interpret(quantised.part(0, 0, true), {x8.data()}, a8.data());
  const auto a32 = real(a8, quantised.of("a"));
  interpret(quantised.part(1, 1, false), {a32.data()}, b32.data());
  const auto b8 = quantise(b32.data(), quantised.of("b"));
  const auto tail = quantised.part(2, 2, true);
  const bool b_first = tail->tensor(tail->inputs()[0]).name == "b";
  interpret(tail, {b_first ? b8.data() : a8.data(), b_first ? a8.data() : b8.data()}, c8.data());
  const auto expected = real(c8, quantised.of("c"));
  CHECK(std::vector<float>(result.floats(0), result.floats(0) + count) == expected);
  // x, a, b and c cross, each with one buffer; a (a copy for L), b, x and c are converted.
  CHECK(executor->memory_bytes() == (4 + 1) * count + (1 + 4) * count + (4 + 1) * count + (1 + 4) * count);
}

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
  for (size_t in_flight : {1, 3}) {
    const auto executor = fixture.start(options(in_flight, 150ms));
    const Frame inputs = Frame::random(*fixture.graph, 5), expected = uncut(fixture.graph, inputs);
    CHECK(run(*executor, inputs) == expected);
    const size_t memory = fixture.manager->memory_bytes();
    const int prepared = fixture.backend->prepared;
    hang = true;
    for (size_t i = 0; i < in_flight; ++i) executor->submit(inputs.in());
    const auto start = std::chrono::steady_clock::now();
    CHECK_CONTAINS(message<TimeoutError>([&] { receive(*executor); }),
                   "no result within 150 ms: layers 2 to 3 on B did not finish");
    CHECK(std::chrono::steady_clock::now() - start < 5s);
    hang = false;
    CHECK(run(*executor, inputs) == expected);
    CHECK(fixture.backend->prepared == prepared + 1);  // B anew; L and C as they were
    CHECK(fixture.manager->memory_bytes() - memory < memory / 4);
    // The frames behind the one that hung are lost.
    CHECK_CONTAINS(message<TimeoutError>([&] { receive(*executor); }), "there is no frame to receive");
  }
  door->open();  // what was given up ends by itself and is closed
  while (fixture.backend->closed < 2) std::this_thread::sleep_for(1ms);
  fixture.manager->trim();
  CHECK(fixture.backend->closed == fixture.backend->prepared);
}

TEST_CASE("the timeout is a frame's, not that of an idle wait for one") {
  Watched fixture;
  fixture.backend->before_step = [](const piqi::SubGraph&, size_t step, float) {
    if (step == 0) std::this_thread::sleep_for(200ms);
  };
  const auto executor = fixture.start(options(1, 400ms));
  const Frame inputs = Frame::random(*fixture.graph, 1), expected = uncut(fixture.graph, inputs);
  std::thread late([&] {
    std::this_thread::sleep_for(300ms);
    executor->submit(inputs.in());
  });
  CHECK(receive(*executor) == expected);
  late.join();
}

TEST_CASE("without a receiver a submit times out and leaves nothing behind") {
  const auto graph = branched();
  const auto executor = make_executor(make_manager(graph), "LBLBLB", {}, options(2, 100ms));
  const Frame a = Frame::random(*graph, 1), b = Frame::random(*graph, 2), c = Frame::random(*graph, 3);
  executor->submit(a.in());
  executor->submit(b.in());
  CHECK_CONTAINS(message<TimeoutError>([&] { executor->submit(c.in()); }),
                 "2 are in flight and none was received");
  CHECK(receive(*executor) == uncut(graph, a));
  executor->submit(c.in());
  CHECK(receive(*executor) == uncut(graph, b));
  CHECK(receive(*executor) == uncut(graph, c));
  CHECK_CONTAINS(message<TimeoutError>([&] { receive(*executor); }), "there is no frame to receive");
  CHECK(run(*executor, a) == uncut(graph, a));
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

TEST_CASE("the governor is asked and the marker called before each layer, in order") {
  struct Log {
    std::mutex mutex;
    std::vector<std::string> lines;
    void add(const std::string& line) {
      const std::lock_guard lock(mutex);
      lines.push_back(line);
    }
  };
  struct LoggingGovernor final : piqi::Governor {
    Log* log;
    bool request(size_t domain, size_t index) override {
      log->add("request " + std::to_string(domain) + ":" + std::to_string(index));
      return true;
    }
    bool controls(size_t) const override { return true; }
    size_t in_force(size_t) const override { return unknown; }
    void restore() noexcept override {}
    std::vector<std::string> warnings() const override { return {}; }
  };
  struct LoggingMarker final : piqi::PowerMarker {
    Log* log;
    void mark(size_t layer) override { log->add("mark " + std::to_string(layer)); }
  };
  const auto graph = chain(5);
  const auto board = make_board();  // domains: L 0, B 1, G 2
  const auto manager = make_manager(graph, board);
  Log log;
  const auto governor = std::make_shared<LoggingGovernor>();
  const auto marker = std::make_shared<LoggingMarker>();
  governor->log = marker->log = &log;
  const Frame sample = Frame::random(*graph, 1);
  const Quantised quantised(graph, sample);
  GraphExecutor executor(manager, piqi::Plan(*board, 5, "LGNNB", "1 1-0 2 2 0"), {quantised.partition(2, 3)},
                         {}, governor, marker);
  Frame outputs = Frame::outputs(*graph);
  executor.run(sample.in(), outputs.out());
  using Lines = std::vector<std::string>;
  const Lines expected{"request 0:1", "mark 0", "request 2:1", "request 1:0", "mark 1",
                       "request 1:2", "mark 2", "request 1:0", "mark 4"};
  CHECK(log.lines == expected);
  executor.run(sample.in(), outputs.out());
  CHECK(log.lines.size() == 2 * expected.size());
}

TEST_CASE("a governor that fails fails the frame") {
  struct Failing final : piqi::Governor {
    bool request(size_t, size_t) override { throw piqi::DeviceError("scaling_setspeed: gone"); }
    bool controls(size_t) const override { return true; }
    size_t in_force(size_t) const override { return unknown; }
    void restore() noexcept override {}
    std::vector<std::string> warnings() const override { return {}; }
  };
  const auto graph = chain(2);
  const auto manager = make_manager(graph);
  GraphExecutor executor(manager, piqi::Plan(manager->board(), 2, "LB"), {}, {}, std::make_shared<Failing>());
  CHECK(message<piqi::DeviceError>([&] { run(executor, Frame::random(*graph, 1)); }) ==
        "scaling_setspeed: gone");
}

TEST_CASE("times: a row a frame, in the order in which things happen") {
  const auto graph = branched();
  ExecutorOptions with_kernels = options(1);
  with_kernels.measure_kernels = true;
  const auto executor = make_executor(make_manager(graph), "LLBBGG", {}, with_kernels);
  const Frame inputs = Frame::random(*graph, 1);
  for (int i = 0; i < 4; ++i) run(*executor, inputs);
  const piqi::ExecutorTimes times = executor->times();
  REQUIRE(times.frames.size() == 8);
  for (size_t s = 0; s < 3; ++s) {
    const piqi::SubGraph& sub_graph = executor->cut().sub_graphs[s];
    const size_t receivers = sub_graph.receivers.size(), steps = sub_graph.steps.size();
    const size_t width = 3 * receivers + 2 + 4 * steps + 1;
    REQUIRE(times.sub_graphs[s].size() == 4 * width);
    for (size_t f = 0; f < 4; ++f) {
      const int64_t* row = &times.sub_graphs[s][f * width];
      int64_t last = times.frames[2 * f];
      for (size_t r = 0; r < receivers; ++r, row += 3) {
        CHECK(times.frames[2 * f] <= row[0]);
        CHECK(row[0] <= row[1]);
        CHECK(row[1] <= row[2]);
        last = row[2];
      }
      CHECK(last <= row[0]);
      CHECK(row[0] <= row[1]);
      last = row[1];
      row += 2;
      for (size_t step = 0; step < steps; ++step, row += 4) {
        CHECK(last <= row[0]);
        CHECK(row[0] <= row[1]);
        CHECK(row[1] < row[2]);
        CHECK(0 < row[3]);
        CHECK(row[3] <= row[2] - row[1]);
        last = row[2];
      }
      CHECK(last <= *row);
      CHECK(times.frames[2 * f] < times.frames[2 * f + 1]);
    }
  }
  executor->clear_times();
  CHECK(executor->times().frames.empty());
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

TEST_CASE("no heap allocation a frame after warm-up") {
  if (!counts_allocations()) return;
  const auto graph = branched();
  const Frame inputs = Frame::random(*graph, 1);
  const Quantised quantised(graph, inputs);
  Frame outputs = Frame::outputs(*graph);
  const void* const* const in = inputs.in();
  void* const* const out = outputs.out();
  for (size_t threads : {1, 2}) {
    const auto manager = make_manager(graph, make_board(threads));
    for (const char* order : {"LLLLLL", "LBGLBG", "LNNBGG", "NNMMLB"}) {
      for (size_t in_flight : {1, 3}) {
        INFO(order << ", " << threads << " threads, " << in_flight << " in flight");
        const auto executor = make_executor(
            manager, order, {quantised.partition(1, 2), quantised.partition(0, 1), quantised.partition(2, 3)},
            options(in_flight));
        const auto frames = [&](size_t count) {
          size_t submitted = 0;
          for (size_t received = 0; received < count; ++received) {
            while (submitted < count && submitted - received < in_flight) {
              executor->submit(in);
              ++submitted;
            }
            executor->receive(out);
          }
        };
        frames(10);
        const size_t before = allocation_count();
        frames(100);
        CHECK(allocation_count() - before == 0);
      }
    }
  }
}

}  // namespace piqi_test
