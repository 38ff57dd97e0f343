// Run configurations: what is read, what is refused and how it is named.
#include "network.hpp"

namespace piqi_test {

using piqi::Plan;
using piqi::PlanError;

TEST_CASE("an order and its frequencies become requests") {
  const auto board = make_board();
  const Plan plan(*board, 5, "GLNNB", "1-2 0 1 2 2");
  CHECK(plan.order() == "GLNNB");
  CHECK(plan.layer_count() == 5);
  CHECK(plan.processor(0) == board->find('G'));
  CHECK(plan.processor(4) == board->find('B'));
  const auto requests = [&](size_t layer) {
    std::string text;
    for (const auto& request : plan.requests(layer))
      text += board->processors()[request.processor].letter + std::to_string(request.index);
    return text;
  };
  CHECK(requests(0) == "G1B2");
  CHECK(requests(1) == "L0");
  CHECK(requests(2) == "B1");  // an NPU has no frequency of its own: its host's
  CHECK(requests(4) == "B2");
}

TEST_CASE("frequencies survive the way out and back") {
  const auto board = make_board();
  for (const char* freqs : {"1-2 0 1 2 2", "0-0 2 0 0 1", ""}) {
    const Plan plan(*board, 5, "GLNNB", freqs);
    const Plan again(*board, 5, plan.order(), plan.freqs());
    CHECK(again.freqs() == plan.freqs());
    if (*freqs) CHECK(plan.freqs() == freqs);
  }
  CHECK(Plan(*board, 5, "GLNNB").freqs() == "1-2 2 2 2 2");  // the highest
  CHECK(Plan(*board, 2, "LL", "  1\t2\n").freqs() == "1 2");
}

TEST_CASE("NPU ranges are the maximal runs of layers on one NPU") {
  const auto board = make_board();
  using Ranges = std::vector<std::pair<size_t, size_t>>;
  CHECK(Plan(*board, 4, "LLBG").npu_ranges() == Ranges{});
  CHECK(Plan(*board, 4, "NNNN").npu_ranges() == Ranges{{0, 3}});
  CHECK(Plan(*board, 7, "NLNNBLN").npu_ranges() == Ranges{{0, 0}, {2, 3}, {6, 6}});
  CHECK(Plan(*board, 4, "NNMM").npu_ranges() == Ranges{{0, 1}, {2, 3}});
}

TEST_CASE("what does not fit is refused, with the layer and the value") {
  const auto board = make_board();
  const auto refusal = [&](const std::string& order, const std::string& freqs = "") {
    return message<PlanError>([&] { Plan(*board, 3, order, freqs); });
  };
  CHECK_CONTAINS(refusal("LL"), "order 'LL' has 2 letters, the model has 3 layers");
  CHECK_CONTAINS(refusal("LLLL"), "has 4 letters");
  CHECK_CONTAINS(refusal(""), "order '' has 0 letters");
  CHECK_CONTAINS(refusal("LXB"), "layer 1: board test has no processor 'X', only LBGNM");
  CHECK_CONTAINS(refusal("LlB"), "layer 1");
  CHECK_CONTAINS(refusal("LLB", "1 1"), "freqs '1 1' has 2 entries, the model has 3 layers");
  CHECK_CONTAINS(refusal("LLB", "1 1 1 1"), "has 4 entries");
  CHECK_CONTAINS(refusal("LLB", "1 3 1"), "layer 1: frequency '3': L has indices 0 to 2");
  CHECK_CONTAINS(refusal("LLG", "1 1 2-0"), "layer 2: frequency '2-0': G has indices 0 to 1");
  CHECK_CONTAINS(refusal("LLG", "1 1 0-3"), "layer 2: frequency '0-3': B has indices 0 to 2");
  CHECK_CONTAINS(refusal("LLN", "1 1 3"), "B has indices 0 to 2");
  CHECK_CONTAINS(refusal("LLG", "1 1 1"), "layer 2: frequency '1': processor G needs own-host, two numbers");
  CHECK_CONTAINS(refusal("LLB", "1 1-1 1"), "layer 1: frequency '1-1': processor L needs one number");
  for (const char* bad : {"x", "1x", "+1", "1.0", "0x1", "99999999999999999999999", "1,"})
    CHECK_CONTAINS(refusal("LLB", std::string("1 ") + bad + " 1"), std::string("layer 1: frequency '") + bad);
  for (const char* bad : {"-1", "1-", "-"})
    CHECK_CONTAINS(refusal("LLB", std::string("1 ") + bad + " 1"), "layer 1");
  for (const char* bad : {"1-2-", "-1-2", "1--2", "1-", "-", "--"})
    CHECK_CONTAINS(refusal("LLG", std::string("1 1 ") + bad), std::string("layer 2: frequency '") + bad);
}

TEST_CASE("boards that cannot be are refused") {
  using piqi::Board;
  using piqi::ProcessorKind;
  const auto refusal = [](std::vector<piqi::Processor> processors) {
    return message<PlanError>([&] { Board("b", std::move(processors)); });
  };
  const piqi::Processor cpu{'L', ProcessorKind::Cpu, "xnnpack", {0}, 1, '\0', {}, ""};
  CHECK_CONTAINS(refusal({}), "board b: has no processors");
  CHECK_CONTAINS(refusal({cpu, cpu}), "two processors have the letter L");
  piqi::Processor broken = cpu;
  broken.host = 'B';
  CHECK_CONTAINS(refusal({broken}), "no processor 'B'");
  broken.host = 'L';
  CHECK_CONTAINS(refusal({broken}), "L is its own host");
  broken = cpu;
  for (size_t threads : {size_t{0}, size_t{100000}, npos}) {
    broken.threads = threads;
    CHECK_CONTAINS(refusal({broken}), "processor L has " + std::to_string(threads) + " threads");
  }
}

TEST_CASE("a plan for another board or another network is refused") {
  const auto graph = chain(3);
  const auto manager = make_manager(graph);
  const auto other = std::make_shared<const piqi::Board>(
      "other", std::vector<piqi::Processor>{make_board()->processors()[1], make_board()->processors()[0]});
  CHECK_CONTAINS(message<PlanError>([&] { manager->cut(Plan(*other, 3, "LBL"), {}); }),
                 "not made for board test");
  const auto small = make_manager(graph, other);
  CHECK_CONTAINS(message<PlanError>([&] { small->cut(Plan(*make_board(), 3, "LGL"), {}); }),
                 "no processor 'G'");
  CHECK_CONTAINS(message<PlanError>([&] { make_executor(manager, "LB"); }), "order 'LB'");
  CHECK_CONTAINS(message<PlanError>([&] { manager->cut(Plan(manager->board(), 2, "LB"), {}); }),
                 "the plan has 2 layers, network has 3");
}

}  // namespace piqi_test
