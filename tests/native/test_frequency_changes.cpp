// Which changes of frequency are left out, on times that the tests make up.
#include <functional>

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

using Time = std::function<double(size_t layer, const std::string& freqs)>;  // ms

/// Frames whose layers take what a test says.
class Frames {
 public:
  Frames(const std::string& order, const std::string& freqs, bool frames_overlap)
      : plan_(*board_, order.size(), order, freqs),
        cut_(piqi::GraphCreator::create(*chain(order.size()), plan_)),
        changes_(*board_, cut_, plan_, governor_, frames_overlap),
        seen_(order.size()) {}

  /// The frequencies at which the layers run. The sub-graphs go through the frame in their order, or the
  /// other way round, as may be where frames overlap.
  std::string next(const std::vector<double>& times_ms, bool backwards = false) {
    return next([&](size_t layer, const std::string&) { return times_ms[layer]; }, backwards);
  }
  std::string next(const Time& time_ms, bool backwards = false) {
    for (size_t i = 0; i < cut_.sub_graphs.size(); ++i)
      run(backwards ? cut_.sub_graphs.size() - 1 - i : i, time_ms);
    std::string text;
    for (const std::string& layer : seen_) text += (text.empty() ? "" : " ") + layer;
    return text;
  }

 private:
  void run(size_t number, const Time& time_ms) {
    const std::vector<piqi::Step>& steps = cut_.sub_graphs[number].steps;
    for (size_t i = 0; i < steps.size(); ++i) {
      changes_.ask(number, i);
      std::string text;
      for (const auto& request : plan_.requests(steps[i].first_layer))
        text += (text.empty() ? "" : "-") +
                std::to_string(governor_->in_force(board_->domain_of(request.processor)));
      seen_[steps[i].first_layer] = text;
    }
    for (size_t i = 0; i < steps.size(); ++i) {
      const size_t layer = steps[i].first_layer;
      changes_.took(number, i, static_cast<int64_t>(1e6 * time_ms(layer, seen_[layer])));
    }
  }

  const std::shared_ptr<const piqi::Board> board_ = slow_board();
  const std::shared_ptr<ObedientGovernor> governor_ = std::make_shared<ObedientGovernor>(*board_);
  const piqi::Plan plan_;
  const piqi::CutGraph cut_;
  piqi::FrequencyChanges changes_;
  std::vector<std::string> seen_;
};

/// The frequencies at which the layers run once the executor knows how long they take.
std::string really_run(const std::string& order, const std::string& freqs,
                       const std::vector<double>& times_ms, bool frames_overlap, bool backwards = false) {
  Frames frames(order, freqs, frames_overlap);
  for (int i = 0; i < 4; ++i) CHECK(frames.next(times_ms, backwards) == freqs);  // nothing is known yet
  for (int i = 0; i < 8; ++i) frames.next(times_ms, backwards);
  return frames.next(times_ms, backwards);
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

TEST_CASE(
    "a change that pays only at the frequency in force is skipped twice to know it, and again much later") {
  Frames frames("LL", "0 2", switching);
  const Time time_ms = [](size_t layer, const std::string& freq) {
    return layer == 0 ? 100.0 : freq == "0" ? 20.0 : 1.0;
  };
  int skipped = 0;
  std::string text;
  for (int i = 0; i < 600; ++i) skipped += (text = frames.next(time_ms)) == "0 0";
  CHECK(text == "0 2");
  CHECK(skipped == 6);
}

TEST_CASE("frames that something holds up do not change for good what is skipped") {
  Frames frames("LL", "0 2", switching);
  const auto undisturbed = [&](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text = frames.next({100, 1});
    return text;
  };
  CHECK(undisturbed(12) == "0 0");
  frames.next({100, 3000});
  CHECK(undisturbed(1) == "0 0");
  for (int i = 0; i < 3; ++i) frames.next({100, 3000});
  CHECK(undisturbed(1) == "0 2");
  CHECK(undisturbed(300) == "0 0");
}

}  // namespace piqi_test
