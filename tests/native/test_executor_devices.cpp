// When the executor asks the governor and calls the marker.
#include "executor_fixture.hpp"

namespace piqi_test {

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

TEST_CASE("in either mode changes that do not pay are left out, where one sub-graph alone asks for them") {
  std::vector<piqi::Processor> processors = make_board()->processors();
  for (piqi::Processor& processor : processors)  // longer than any frame
    processor.delays_us.assign(processor.freqs_khz.size() * processor.freqs_khz.size(), 1'000'000'000);
  const auto board = std::make_shared<const piqi::Board>("slow changes", processors);
  const auto graph = chain(4);
  const auto manager = make_manager(graph, board);
  const Frame sample = Frame::random(*graph, 1), expected = uncut(graph, sample);
  const auto changes = [&](const char* order, const char* freqs, size_t in_flight) {
    const auto governor = std::make_shared<ObedientGovernor>(*board);
    GraphExecutor executor(manager, piqi::Plan(*board, 4, order, freqs), {}, options(in_flight), governor);
    const auto frames = [&](size_t count) {
      for (size_t i = 0; i < count; ++i) executor.submit(sample.in());
      for (size_t i = 0; i < count; ++i) CHECK(receive(executor) == expected);
    };
    for (int i = 0; i < 8; ++i) frames(in_flight);
    governor->take_changes();
    for (int i = 0; i < 4; ++i) frames(in_flight);
    return governor->take_changes();
  };
  CHECK(changes("LLBB", "0 2 1 0", 1) == 0);
  CHECK(changes("LLBB", "0 2 1 0", 3) == 0);
  CHECK(changes("LBBL", "0 1 1 2", 1) == 0);
  CHECK(changes("LBBL", "0 1 1 2", 3) > 0);
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

}  // namespace piqi_test
