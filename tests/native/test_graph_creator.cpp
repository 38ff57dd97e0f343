// Where a plan cuts a graph: sub-graphs, and one edge for each tensor that crosses.
#include "network.hpp"

namespace piqi_test {

using piqi::CutGraph;
using piqi::Edge;
using piqi::GraphCreator;
using piqi::Plan;
using piqi::SubGraph;

namespace {

CutGraph cut(const Graph& graph, const std::string& order) {
  return GraphCreator::create(graph, Plan(*make_board(), graph.layer_count(), order));
}

std::string names(const Graph& graph, const std::vector<TensorId>& ids) {
  std::string text;
  for (TensorId id : ids) text += (text.empty() ? "" : " ") + graph.tensor(id).name;
  return text;
}

/// "p0: 0 -> 1 2 out"; sub-graphs by number.
std::vector<std::string> edges(const Graph& graph, const CutGraph& cut) {
  std::vector<std::string> lines;
  for (const Edge& edge : cut.edges) {
    std::string line = graph.tensor(edge.tensor).name + ":";
    line += edge.sender == npos ? " in ->" : " " + std::to_string(edge.sender) + " ->";
    for (size_t receiver : edge.receivers) line += receiver == npos ? " out" : " " + std::to_string(receiver);
    lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("one processor makes one sub-graph with a step a layer") {
  const auto graph = branched();
  const CutGraph whole = cut(*graph, "LLLLLL");
  REQUIRE(whole.sub_graphs.size() == 1);
  const SubGraph& only = whole.sub_graphs[0];
  CHECK(only.first_layer == 0);
  CHECK(only.last_layer == 5);
  CHECK(names(*graph, only.receivers) == "x y");
  CHECK(names(*graph, only.senders) == "c1 c3 head");
  REQUIRE(only.steps.size() == 6);
  size_t operators = 0;
  for (size_t i = 0; i < 6; ++i) {
    CHECK(only.steps[i].first_layer == i);
    CHECK(only.steps[i].last_layer == i);
    for (piqi::OperatorId id : only.steps[i].operators) CHECK(graph->operators()[id].layer == i);
    operators += only.steps[i].operators.size();
  }
  CHECK(operators == graph->operators().size());
  CHECK(edges(*graph, whole) ==
        Lines{"c1: 0 -> out", "c3: 0 -> out", "head: 0 -> out", "x: in -> 0", "y: in -> 0"});
}

TEST_CASE("branches and skips: one sender, all its receivers, and the caller where it is an output too") {
  const auto graph = branched();
  const CutGraph six = cut(*graph, "LBLBLB");
  REQUIRE(six.sub_graphs.size() == 6);
  CHECK(edges(*graph, six) == Lines{"c1: 1 -> 2 out", "c3: 3 -> out", "c4b: 4 -> 5", "head: 5 -> out",
                                    "p0: 0 -> 1 2 5", "split_a: 2 -> 3", "split_b: 2 -> 4", "x: in -> 0",
                                    "y: in -> 4"});
  CHECK(names(*graph, six.sub_graphs[2].receivers) == "p0 c1");
  CHECK(names(*graph, six.sub_graphs[2].senders) == "split_a split_b");
  CHECK(names(*graph, six.sub_graphs[4].receivers) == "y split_b");
  CHECK(names(*graph, six.sub_graphs[5].receivers) == "p0 c4b");
}

TEST_CASE("what stays inside does not cross") {
  const auto graph = branched();
  const CutGraph three = cut(*graph, "LLLBGG");
  REQUIRE(three.sub_graphs.size() == 3);
  CHECK(edges(*graph, three) == Lines{"c1: 0 -> out", "c3: 1 -> out", "head: 2 -> out", "p0: 0 -> 2",
                                      "split_a: 0 -> 1", "split_b: 0 -> 2", "x: in -> 0", "y: in -> 2"});
  CHECK(three.sub_graphs[0].last_layer == 2);
  CHECK(three.sub_graphs[1].processor == make_board()->find('B'));
  CHECK(names(*graph, three.sub_graphs[1].receivers) == "split_a");
}

TEST_CASE("two consumers in one sub-graph are one receiver; one operator that reads twice too") {
  Network network;
  const TensorId x = network.input("x", {1, 4, 4, 4});
  const TensorId a = network.conv("a", x, 4, 0);
  const TensorId b = network.add("b", a, a, 1);
  const TensorId c = network.add("c", b, a, 1);
  network.output(c);
  const auto graph = network.finish();
  const CutGraph two = cut(*graph, "LB");
  CHECK(edges(*graph, two) == Lines{"a: 0 -> 1", "c: 1 -> out", "x: in -> 0"});
  CHECK(names(*graph, two.sub_graphs[1].receivers) == "a");
}

TEST_CASE("an input may go to several sub-graphs, or to none") {
  Network network;
  const TensorId x = network.input("x", {1, 4, 4, 4});
  network.input("unused", {1, 4, 4, 4});
  const TensorId a = network.conv("a", x, 4, 0);
  const TensorId b = network.add("b", a, x, 1);
  network.output(b);
  const auto graph = network.finish();
  CHECK(edges(*graph, cut(*graph, "LB")) == Lines{"a: 0 -> 1", "b: 1 -> out", "x: in -> 0 1"});
}

TEST_CASE("every order joins up: senders and receivers are exactly the ends of the edges") {
  const auto graph = branched();
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::string order;
    for (int i = 0; i < 6; ++i) order += "LBG"[random() % 3];
    INFO(order);
    const CutGraph pieces = cut(*graph, order);
    std::map<size_t, std::vector<TensorId>> sent, received;
    for (const Edge& edge : pieces.edges) {
      if (edge.sender != npos) sent[edge.sender].push_back(edge.tensor);
      for (size_t receiver : edge.receivers) {
        if (receiver == npos) continue;
        CHECK((edge.sender == npos || receiver > edge.sender));
        received[receiver].push_back(edge.tensor);
      }
    }
    size_t next_layer = 0;
    for (size_t i = 0; i < pieces.sub_graphs.size(); ++i) {
      const SubGraph& piece = pieces.sub_graphs[i];
      CHECK(piece.first_layer == next_layer);
      next_layer = piece.last_layer + 1;
      if (i > 0) CHECK(piece.processor != pieces.sub_graphs[i - 1].processor);
      for (size_t layer = piece.first_layer; layer <= piece.last_layer; ++layer)
        CHECK(make_board()->processors()[piece.processor].letter == order[layer]);
      CHECK(piece.senders == sent[i]);
      CHECK(piece.receivers == received[i]);
    }
    CHECK(next_layer == 6);
  }
}

}  // namespace piqi_test
