// An NPU's sub-graph becomes one node that holds its partition, if the partition fits.
#include "network.hpp"

namespace piqi_test {

using piqi::CutGraph;
using piqi::Partition;
using piqi::PartitionError;
using piqi::Plan;

namespace {

struct Fixture {
  std::shared_ptr<const Graph> graph = branched();
  std::shared_ptr<piqi::GraphManager> manager = make_manager(graph);
  Quantised quantised{graph, Frame::random(*graph, 1)};

  CutGraph cut(const std::string& order, const Partitions& partitions) {
    return manager->cut(Plan(manager->board(), 6, order), partitions);
  }
  std::string refusal(const std::string& order, const Partitions& partitions) {
    return message<PartitionError>([&] { cut(order, partitions); });
  }
  /// A partition of layers 1 to 2 whose graph is `inner`.
  static std::shared_ptr<const Partition> one_to_two(std::shared_ptr<const Graph> inner) {
    return std::make_shared<const Partition>(Partition{1, 2, std::move(inner), "", ""});
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a range on an NPU is one step with its partition; the others stay as they are") {
  const auto first = quantised.partition(1, 2), second = quantised.partition(4, 4);
  const CutGraph pieces = cut("LNNBNB", {second, nullptr, first});
  REQUIRE(pieces.sub_graphs.size() == 5);
  CHECK(pieces.sub_graphs[1].partition == first);
  CHECK(pieces.sub_graphs[3].partition == second);
  REQUIRE(pieces.sub_graphs[1].steps.size() == 1);
  CHECK(pieces.sub_graphs[1].steps[0].first_layer == 1);
  CHECK(pieces.sub_graphs[1].steps[0].last_layer == 2);
  CHECK(pieces.sub_graphs[1].steps[0].operators.size() == 4);  // c1, c2, sum, split
  for (size_t i : {0, 2, 4}) CHECK(pieces.sub_graphs[i].partition == nullptr);
}

TEST_CASE_FIXTURE(Fixture, "a missing partition is named by its layers") {
  CHECK_CONTAINS(refusal("LNNBLB", {}), "no partition was given for layers 1 to 2");
  CHECK_CONTAINS(refusal("LNNBLB", {quantised.partition(1, 1), quantised.partition(2, 2)}), "layers 1 to 2");
  CHECK_CONTAINS(refusal("LNBBLN", {quantised.partition(1, 1)}), "layers 5 to 5");
}

TEST_CASE_FIXTURE(Fixture, "a partition of another network is refused by name and shape") {
  const auto inner = [](const std::string& input, const std::string& extra, const std::string& output,
                        size_t size) {
    Network network;
    const TensorId x = network.input(input, {1, size, size, 8});
    const TensorId more = extra.empty() ? x : network.input(extra, {1, size, size, 8});
    const TensorId sum = network.add("inside", x, more, 0);
    const auto [a, b] = network.split(output, sum, 1);
    const TensorId c = network.conv("c1", x, 8, 1);
    for (TensorId id : {a, b, c}) network.output(id);
    return one_to_two(network.finish());
  };
  CHECK(cut("LNNBLB", {inner("p0", "", "split", 6)}).sub_graphs[1].partition != nullptr);
  CHECK_CONTAINS(refusal("LNNBLB", {inner("other", "", "split", 6)}),
                 "partition of layers 1 to 2: has no input 'p0'");
  CHECK_CONTAINS(refusal("LNNBLB", {inner("p0", "", "halves", 6)}), "has no output 'split_a'");
  CHECK_CONTAINS(refusal("LNNBLB", {inner("p0", "", "split", 8)}),
                 "input 'p0' has shape [1, 8, 8, 8], the network's is [1, 6, 6, 8]");
  CHECK_CONTAINS(refusal("LNNBLB", {inner("p0", "more", "split", 6)}),
                 "needs 2 inputs, 1 tensors enter the range");
}

TEST_CASE_FIXTURE(Fixture, "what only a vendor's library can load, the emulated NPU refuses") {
  const auto compiled = std::make_shared<const Partition>(Partition{1, 2, nullptr, "model.rknn", ""});
  CHECK_CONTAINS(message<PartitionError>([&] { make_executor(manager, "LNNBLB", {compiled}); }),
                 "model.rknn");
}

}  // namespace piqi_test
