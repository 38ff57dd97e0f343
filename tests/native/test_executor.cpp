// Cut runs against the uncut graph: any order, either mode, quantised partitions; times.
#include <thread>

#include "allocation_counter.hpp"
#include "executor_fixture.hpp"

namespace piqi_test {

namespace {

std::string random_order(std::mt19937& random, size_t layers, const std::string& letters) {
  std::string order;
  for (size_t i = 0; i < layers; ++i) order += letters[random() % letters.size()];
  return order;
}

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
