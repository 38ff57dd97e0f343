// What is prepared is shared and kept, and let go of in the time that is given.
#include <thread>

#include "network.hpp"

namespace piqi_test {

using piqi::BackendError;
using piqi::TimeoutError;
using namespace std::chrono_literals;

TEST_CASE("ten configurations hold the weights once") {
  const auto graph = chain(10, 2, 64);  // activations are small beside the weights
  size_t weights = 0;
  for (const piqi::Tensor& tensor : graph->tensors())
    if (tensor.is_constant()) weights += tensor.size_bytes();
  REQUIRE(weights > 1'000'000);
  const auto manager = make_manager(graph);
  std::vector<std::unique_ptr<piqi::GraphExecutor>> executors;
  executors.push_back(make_executor(manager, "LLLLLLLLLL"));
  const size_t one = manager->memory_bytes();
  CHECK(one > weights);
  for (const char* order : {"BLLLLLLLLL", "LBLLLLLLLL", "LLBLLLLLLL", "LLLBLLLLLL", "LLLLBLLLLL",
                            "LLLLLBLLLL", "LBLBLBLBLB", "GGGGGBBBBB", "LLLLLLLLLL"})
    executors.push_back(make_executor(manager, order));
  CHECK(manager->memory_bytes() - one < weights / 20);
}

TEST_CASE("configurations that do not run at the same time share their working memory") {
  const auto graph = chain(6, 32, 16);
  const auto manager = make_manager(graph);
  const Frame inputs = Frame::random(*graph, 1), expected = uncut(graph, inputs);
  std::vector<std::unique_ptr<piqi::GraphExecutor>> executors;
  size_t one = 0;
  for (const char* order : {"LLLLLL", "BBBBBB", "LLLBBB", "LLBBBB", "BBLLGG"}) {
    executors.push_back(make_executor(manager, order));
    for (int round = 0; round < 2; ++round) {
      for (const auto& executor : executors) {
        Frame outputs = Frame::outputs(*graph);
        executor->run(inputs.in(), outputs.out());
        CHECK(outputs == expected);
      }
    }
    if (one == 0) one = manager->memory_bytes();
    CHECK(manager->memory_bytes() < one + one / 50);
  }
}

TEST_CASE("arenas: the last one if it is free, else any that fits; none is made that is not needed") {
  piqi::ArenaPool pool;
  auto a = pool.take(1000, nullptr), b = pool.take(500, nullptr);
  CHECK(a->size_bytes() >= 1000);
  CHECK(b->size_bytes() >= 500);
  const uint8_t *const first = a->data(), *const second = b->data();
  CHECK(first != second);
  const size_t two = pool.memory_bytes();
  pool.give_back(std::move(a));
  pool.give_back(std::move(b));
  for (const auto* last : {second, first, second}) {
    auto again = pool.take(500, last);
    CHECK(again->data() == last);
    pool.give_back(std::move(again));
  }
  CHECK(pool.memory_bytes() == two);
  auto small = pool.take(400, nullptr);  // the smallest that fits
  CHECK(small->data() == second);
  pool.give_back(std::move(small));
  auto larger = pool.take(2000, first);  // its last one is too small: it makes room
  CHECK(larger->size_bytes() >= 2000);
  CHECK(pool.memory_bytes() == 2000 + 1000);
  pool.trim();
  CHECK(pool.memory_bytes() == larger->size_bytes());
  pool.give_back(std::move(larger));
  pool.trim();
  CHECK(pool.memory_bytes() == 0);
}

TEST_CASE("a prepared sub-graph is used again by the next configuration that needs it") {
  const auto graph = chain(4);
  const auto backend = std::make_shared<WatchedBackend>();
  const auto manager = make_manager(graph, make_watched_board(), {{"watched", backend}});
  {
    const auto first = make_executor(manager, "LBBL");
    CHECK(backend->prepared == 1);
    const auto second = make_executor(manager, "LBBL");  // at the same time: one of its own
    CHECK(backend->prepared == 2);
  }
  const auto third = make_executor(manager, "CBBC");
  CHECK(backend->prepared == 2);
  const auto other = make_executor(manager, "LBLL");
  CHECK(backend->prepared == 3);
}

TEST_CASE("trim closes what is free and keeps what runs") {
  const auto graph = chain(4);
  const auto backend = std::make_shared<WatchedBackend>();
  const auto manager = make_manager(graph, make_watched_board(), {{"watched", backend}});
  const auto running = make_executor(manager, "LBBL");
  make_executor(manager, "BLLL");
  const Frame inputs = Frame::random(*graph, 1);
  Frame outputs = Frame::outputs(*graph);
  for (int i = 0; i < 2; ++i) {
    running->run(inputs.in(), outputs.out());
    CHECK(outputs == uncut(graph, inputs));
    const size_t before = manager->memory_bytes();
    manager->trim();
    CHECK(backend->closed == 1);
    CHECK(manager->memory_bytes() < before);  // arenas are free between frames
  }
  running->close();
  manager->trim();
  CHECK(backend->closed == 2);
  CHECK(manager->memory_bytes() == 0);
}

TEST_CASE("what hangs on closing is named and given up, all of it at once") {
  const auto graph = chain(6);
  const auto backend = std::make_shared<WatchedBackend>();
  std::atomic<bool> released{false};
  backend->may_hang = true;
  backend->on_close = [&] {
    while (!released) std::this_thread::sleep_for(1ms);
  };
  const auto manager = make_manager(graph, make_watched_board(), {{"watched", backend}});
  make_executor(manager, "LBLBBB");
  const std::string text = message<TimeoutError>([&] { manager->trim(200ms); });
  CHECK_CONTAINS(text, "did not close in 200 ms");
  CHECK_CONTAINS(text, "layers 1 to 1 on watched");
  CHECK_CONTAINS(text, "layers 3 to 5 on watched");
  CHECK(manager->memory_bytes() < make_manager(graph)->memory_bytes() + 100'000);
  manager->trim(200ms);  // nothing is left to close
  make_executor(manager, "LBLBBB");
  CHECK(backend->prepared == 4);
  released = true;
  manager->trim();
  while (backend->closed < 4) std::this_thread::sleep_for(1ms);
}

TEST_CASE("two partitions of the same layers are two things to prepare") {
  const auto graph = chain(3);
  const Quantised quantised(graph, Frame::random(*graph, 1)), other(graph, Frame::random(*graph, 2));
  const auto manager = make_manager(graph);
  const Frame inputs = Frame::random(*graph, 3);
  const auto result = [&](const Quantised& q) {
    Frame outputs = Frame::outputs(*graph);
    make_executor(manager, "LNL", {q.partition(1, 1)})->run(inputs.in(), outputs.out());
    return outputs;
  };
  const Frame first = result(quantised);
  CHECK_FALSE(result(other) == first);
  CHECK(result(quantised) == first);
}

TEST_CASE("a backend that is not there is named") {
  CHECK_CONTAINS(message<BackendError>([] { make_manager(chain(2), make_watched_board()); }),
                 "processor B: no backend is named 'watched'");
}

TEST_CASE("CPUs that are not here: unpinned, with one line a processor") {
  const auto graph = chain(2);
  CHECK(make_manager(chain(2), std::make_shared<const piqi::Board>(
                                   "b",
                                   std::vector<piqi::Processor>{
                                       {'L', piqi::ProcessorKind::Cpu, "xnnpack", {0}, 1, '\0', {}, ""}}))
            ->warnings()
            .empty());
  std::vector<piqi::Processor> processors = make_board()->processors();
  processors[0].cpus = {0, 100000};
  processors[1].cpus = {-1};
  const auto manager = make_manager(graph, std::make_shared<const piqi::Board>("far", processors));
  REQUIRE(manager->warnings().size() >= 2);
  CHECK_CONTAINS(manager->warnings()[0], "processor L: CPU 100000 is not available here");
  CHECK_CONTAINS(manager->warnings()[1], "processor B: CPU -1 is not available here");
  const Frame inputs = Frame::random(*graph, 1);
  Frame outputs = Frame::outputs(*graph);
  make_executor(manager, "LB")->run(inputs.in(), outputs.out());
  CHECK(outputs == uncut(graph, inputs));
}

TEST_CASE("work of a processor runs on its CPUs") {
  const auto graph = chain(3);
  const auto backend = std::make_shared<WatchedBackend>();
  std::atomic<int> wrong{0}, seen{0};
  backend->before_step = [&](const piqi::SubGraph&, size_t, float) {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    wrong += !(CPU_COUNT(&set) == 1 && CPU_ISSET(0, &set));
    ++seen;
  };
  std::vector<piqi::Processor> processors = make_watched_board()->processors();
  processors[1].cpus = {0};
  const auto manager =
      make_manager(graph, std::make_shared<const piqi::Board>("b", processors), {{"watched", backend}});
  if (!manager->warnings().empty()) return;  // CPU 0 is not this process's
  const Frame inputs = Frame::random(*graph, 1);
  Frame outputs = Frame::outputs(*graph);
  make_executor(manager, "LBL")->run(inputs.in(), outputs.out());
  CHECK(seen == 1);
  CHECK(wrong == 0);
}

}  // namespace piqi_test
