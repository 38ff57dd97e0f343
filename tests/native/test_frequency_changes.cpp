// Which changes of frequency are left out, on times that the tests make up.
#include "executor_fixture.hpp"
#include "frequency_changes.hpp"

namespace piqi_test {

namespace {

constexpr bool switching = false, pipeline = true;

/// L, B, and G fed by B; a change takes 8 ms.
std::shared_ptr<const piqi::Board> slow_board() {
  std::vector<piqi::Processor> processors = make_board()->processors();
  processors.resize(3);
  for (piqi::Processor& processor : processors)
    processor.delays_us.assign(processor.freqs_khz.size() * processor.freqs_khz.size(), 8000);
  return std::make_shared<const piqi::Board>("slow changes", processors);
}

/// The frequencies at which the layers run once the executor knows how long they take. The sub-graphs go
/// through a frame in their order, or the other way round, as may be where frames overlap.
std::string really_run(const std::string& order, const std::string& freqs,
                       const std::vector<double>& times_ms, bool frames_overlap, bool backwards = false) {
  const auto board = slow_board();
  const auto graph = chain(order.size());
  const piqi::Plan plan(*board, order.size(), order, freqs);
  const piqi::CutGraph cut = piqi::GraphCreator::create(*graph, plan);
  const auto governor = std::make_shared<ObedientGovernor>(*board);
  piqi::FrequencyChanges changes(*board, cut, plan, governor, frames_overlap);
  std::vector<std::string> layers(order.size());
  const auto run = [&](size_t number) {
    const piqi::SubGraph& sub_graph = cut.sub_graphs[number];
    for (size_t step = 0; step < sub_graph.steps.size(); ++step) {
      changes.ask(number, step);
      std::string& text = layers[sub_graph.steps[step].first_layer];
      text.clear();
      for (const auto& request : plan.requests(sub_graph.steps[step].first_layer))
        text += (text.empty() ? "" : "-") +
                std::to_string(governor->in_force(board->domain_of(request.processor)));
    }
    for (size_t step = 0; step < sub_graph.steps.size(); ++step)
      changes.took(number, step, static_cast<int64_t>(1e6 * times_ms[sub_graph.steps[step].first_layer]));
  };
  const size_t count = cut.sub_graphs.size();
  std::string last;
  for (int frame = 0; frame < 12; ++frame) {
    for (size_t i = 0; i < count; ++i) run(backwards ? count - 1 - i : i);
    last.clear();
    for (const std::string& layer : layers) last += (last.empty() ? "" : " ") + layer;
    if (frame < 4) CHECK(last == freqs);  // nothing is known yet
  }
  return last;
}

}  // namespace

TEST_CASE("in switching mode layers on other processors count") {
  CHECK(really_run("LLBB", "0 2 1 1", {100, 1, 1, 1}, switching) == "0 0 1 1");
  CHECK(really_run("LLBB", "0 2 1 1", {100, 1, 1, 7}, switching) == "0 2 1 1");
}

TEST_CASE("where frames overlap only the processor's own layers count") {
  for (bool backwards : {false, true}) {
    CHECK(really_run("LLBB", "0 2 1 1", {100, 1, 1, 7}, pipeline, backwards) == "0 0 1 1");
    CHECK(really_run("LLBB", "0 2 1 1", {100, 8, 1, 7}, pipeline, backwards) == "0 0 1 1");
    CHECK(really_run("LLBB", "0 2 1 1", {100, 9, 1, 7}, pipeline, backwards) == "0 2 1 1");
    // Its first layer comes behind its last: 5 ms in each of two frames.
    CHECK(really_run("LLLB", "2 0 2 1", {5, 100, 5, 1}, pipeline, backwards) == "2 0 2 1");
    CHECK(really_run("LLLB", "0 0 2 1", {5, 100, 5, 1}, pipeline, backwards) == "0 0 0 1");
    CHECK(really_run("LLLB", "2 2 2 1", {1, 1, 1, 1}, pipeline, backwards) == "2 2 2 1");  // once and for all
  }
}

TEST_CASE("where frames overlap a processor that several sub-graphs ask for gets every change") {
  CHECK(really_run("LBL", "0 0 2", {100, 1, 1}, switching) == "0 0 0");
  CHECK(really_run("LBL", "0 0 2", {100, 1, 1}, pipeline) == "0 0 2");
  // The GPU's own frequency is that of one sub-graph, its host's of two.
  CHECK(really_run("GGB", "0-0 1-2 1", {100, 1, 1}, pipeline) == "0-0 0-2 1");
  CHECK(really_run("GGL", "0-0 1-2 1", {100, 1, 1}, pipeline) == "0-0 0-0 1");
}

}  // namespace piqi_test
