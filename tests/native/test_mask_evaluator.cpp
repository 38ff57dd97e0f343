// Many masks in one walk, against the executor one by one.
#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include "network.hpp"
#include "piqi/mask_evaluator.hpp"

namespace piqi_test {

using piqi::GraphError;
using piqi::MaskEvaluator;

namespace {

using Mask = std::vector<uint8_t>;

std::vector<uint8_t> flat(const std::vector<Mask>& masks) {
  std::vector<uint8_t> bytes;
  for (const Mask& mask : masks) bytes.insert(bytes.end(), mask.begin(), mask.end());
  return bytes;
}

std::vector<Mask> all_masks(size_t layers) {
  std::vector<Mask> masks;
  for (size_t bits = 0; bits < size_t{1} << layers; ++bits) {
    Mask mask(layers);
    for (size_t i = 0; i < layers; ++i) mask[i] = static_cast<uint8_t>(bits >> i & 1);
    masks.push_back(mask);
  }
  return masks;
}

struct Fixture {
  std::shared_ptr<const Graph> graph = branched();
  Quantised quantised{graph, Frame::random(*graph, 1)};
  std::shared_ptr<const Graph> int8 = quantised.part(0, 5, true);
  std::shared_ptr<piqi::GraphManager> manager = make_manager(graph);

  Frame by_executor(const Mask& mask, const Frame& inputs) const {
    std::string order;
    Partitions partitions;
    for (size_t i = 0; i < mask.size(); ++i) {
      order += mask[i] ? 'N' : 'B';
      if (!mask[i] || (i > 0 && mask[i - 1])) continue;
      size_t last = i;
      while (last + 1 < mask.size() && mask[last + 1]) ++last;
      partitions.push_back(quantised.partition(i, last));
    }
    Frame outputs = Frame::outputs(*graph);
    make_executor(manager, order, partitions)->run(inputs.in(), outputs.out());
    return outputs;
  }

  /// Checks all masks' outputs, and that each comes once.
  void check(MaskEvaluator& evaluator, const std::vector<Mask>& masks, const Frame& inputs) const {
    const std::vector<uint8_t> bytes = flat(masks);
    std::multiset<size_t> seen;
    evaluator.run(inputs.in(), bytes.data(), masks.size(), [&](size_t number, const void* const* outputs) {
      seen.insert(number);
      Frame found = Frame::outputs(*graph);
      for (size_t i = 0; i < graph->outputs().size(); ++i)
        std::memcpy(found.out()[i], outputs[i], graph->tensor(graph->outputs()[i]).size_bytes());
      CHECK(found == by_executor(masks[number], inputs));
    });
    REQUIRE(seen.size() == masks.size());
    for (size_t number = 0; number < masks.size(); ++number) CHECK(seen.count(number) == 1);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "all masks of a branched network give what the executor gives, bit for bit") {
  MaskEvaluator evaluator(graph, int8);
  const std::vector<Mask> masks = all_masks(6);
  for (uint32_t seed : {1u, 2u}) check(evaluator, masks, Frame::random(*graph, seed));
}

TEST_CASE_FIXTURE(Fixture, "masks come in any order, twice, or not at all") {
  MaskEvaluator evaluator(graph, int8, 2);
  const Frame inputs = Frame::random(*graph, 3);
  check(evaluator, {{1, 0, 1, 0, 0, 1}, {0, 0, 0, 0, 0, 0}, {1, 0, 1, 0, 0, 1}, {0, 1, 1, 1, 0, 0}}, inputs);
  check(evaluator, {}, inputs);
  CHECK(evaluator.memory_bytes() > 0);
}

TEST_CASE_FIXTURE(Fixture, "what the caller throws ends the walk; the next one is whole") {
  MaskEvaluator evaluator(graph, int8);
  const Frame inputs = Frame::random(*graph, 4);
  const std::vector<Mask> masks = all_masks(6);
  const std::vector<uint8_t> bytes = flat(masks);
  size_t calls = 0;
  CHECK_THROWS_AS(evaluator.run(inputs.in(), bytes.data(), masks.size(),
                                [&](size_t, const void* const*) {
                                  if (++calls == 7) throw std::runtime_error("enough");
                                }),
                  std::runtime_error);
  CHECK(calls == 7);
  check(evaluator, {masks[5], masks[40]}, inputs);
}

TEST_CASE("networks that do not belong together are refused") {
  const auto a = chain(3), b = chain(4);
  CHECK_CONTAINS(message<GraphError>([&] { MaskEvaluator(a, b); }), "operator 3");
}

}  // namespace piqi_test
