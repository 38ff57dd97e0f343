// Graphs that contradict themselves are refused with the name of what is wrong; nothing is read or allocated
// on their word.
#include <limits>

#include "network.hpp"
#include "piqi/kernel_cache.hpp"

namespace piqi_test {

using piqi::DataType;
using piqi::GraphError;
using piqi::Tensor;

namespace {

constexpr size_t huge = std::numeric_limits<size_t>::max();

Tensor tensor(const std::string& name, const Shape& shape, DataType type = DataType::Float32) {
  Tensor result;
  result.name = name;
  result.shape = shape;
  result.type = type;
  if (type == DataType::Int8 || type == DataType::UInt8) result.quantization = {{0.5f}, 0};
  return result;
}

Tensor constant(const std::string& name, const Shape& shape, DataType type = DataType::Float32) {
  Tensor result = tensor(name, shape, type);
  result.data =
      std::shared_ptr<const void>(std::calloc(piqi::element_count(shape), size_of(type)), std::free);
  return result;
}

/// A graph of one operator, given its tensors; finish() is left to the caller.
std::shared_ptr<Graph> one(OperatorKind kind, const std::vector<Tensor>& inputs,
                           const std::vector<Tensor>& outputs, const OperatorParameters& p = {}) {
  auto graph = std::make_shared<Graph>("one");
  piqi::Operator op;
  op.name = "op";
  op.kind = kind;
  op.parameters = p;
  for (const Tensor& input : inputs) {
    op.inputs.push_back(graph->add_tensor(input));
    if (!input.is_constant()) graph->add_input(op.inputs.back());
  }
  for (const Tensor& output : outputs) op.outputs.push_back(graph->add_tensor(output));
  graph->add_operator(op);
  for (TensorId id : op.outputs) graph->add_output(id);
  return graph;
}

std::string refusal(OperatorKind kind, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                    const OperatorParameters& p = {}) {
  return message<GraphError>([&] { one(kind, inputs, outputs, p)->finish(); });
}

OperatorParameters pool(size_t kernel, size_t stride, size_t pad = 0) {
  OperatorParameters p;
  p.kernel_height = p.kernel_width = kernel;
  p.stride_height = p.stride_width = stride;
  p.pad_top = p.pad_left = p.pad_bottom = p.pad_right = pad;
  return p;
}

}  // namespace

TEST_CASE("tensors that cannot be are refused") {
  Graph graph("g");
  const auto refused = [&](const Tensor& t) { return message<GraphError>([&] { graph.add_tensor(t); }); };
  CHECK_CONTAINS(refused(tensor("t", {1, 0, 3})), "'t': empty shape [1, 0, 3]");
  CHECK_CONTAINS(refused(tensor("t", {1, 1, 1, 1, 1, 1, 1})), "7 dimensions");
  CHECK_CONTAINS(refused(tensor("t", {huge, huge})), "too many elements");
  CHECK_CONTAINS(refused(tensor("t", {size_t{1} << 32, size_t{1} << 32})), "too many elements");
  CHECK_CONTAINS(refused(tensor("t", {huge})), "too many elements");
  for (float scale : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    Tensor t = tensor("t", {1}, DataType::Int8);
    t.quantization.scales = {scale};
    CHECK_CONTAINS(refused(t), "'t': scale");
  }
  Tensor t = tensor("t", {1}, DataType::UInt8);
  t.quantization.scales.clear();
  CHECK_CONTAINS(refused(t), "uint8 without a scale");
  t.quantization = {{1}, -1};
  CHECK_CONTAINS(refused(t), "zero point -1 is not of uint8");
  t = tensor("t", {1}, DataType::Int8);
  t.quantization.zero_point = 128;
  CHECK_CONTAINS(refused(t), "zero point 128 is not of int8");
  graph.add_tensor(tensor("twice", {1}));
  CHECK_CONTAINS(refused(tensor("twice", {1})), "two tensors are named 'twice'");
}

TEST_CASE("operators must not contradict the tensors, and a refused one leaves no trace") {
  Graph graph("g");
  const TensorId x = graph.add_tensor(tensor("x", {4}));
  const TensorId y = graph.add_tensor(tensor("y", {4}));
  const TensorId z = graph.add_tensor(tensor("z", {4}));
  const TensorId c = graph.add_tensor(constant("c", {4}));
  graph.add_input(x);
  const auto refused = [&](std::vector<TensorId> in, std::vector<TensorId> out) {
    return message<GraphError>([&] { graph.add_operator({"op", OperatorKind::Tanh, in, out, {}, 0}); });
  };
  CHECK_CONTAINS(refused({}, {y}), "tanh 'op': has no inputs");
  CHECK_CONTAINS(refused({x}, {}), "no outputs");
  CHECK_CONTAINS(refused({99}, {y}), "unknown input tensor 99");
  CHECK_CONTAINS(refused({x}, {npos}), "unknown output tensor");
  CHECK_CONTAINS(refused({x}, {c}), "output 'c' is a constant");
  CHECK_CONTAINS(refused({y}, {y}), "output 'y'");     // a cycle of one
  CHECK_CONTAINS(refused({x}, {y, y}), "output 'y'");  // made twice by one operator
  CHECK_CONTAINS(refused({x}, {z, 99}), "unknown output tensor 99");
  CHECK(graph.tensor(z).producer == npos);
  graph.add_operator({"op", OperatorKind::Tanh, {x}, {y}, {}, 0});
  CHECK_CONTAINS(refused({x}, {y}), "output 'y'");  // made twice by two
  graph.add_operator({"op2", OperatorKind::Tanh, {y}, {z}, {}, 0});
  CHECK_CONTAINS(refused({z}, {x}), "output 'x'");  // used before it is made: a cycle of three
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_input(x); }), "input 'x' is named twice");
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_input(y); }), "is not a free tensor");
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_input(c); }), "is not a free tensor");
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_output(x); }), "is made by no operator");
  graph.add_output(z);
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_output(z); }), "output 'z' is named twice");
  graph.finish();
  CHECK(graph.layer_count() == 1);
  CHECK(graph.tensor(x).consumers == std::vector<piqi::OperatorId>{0});
  CHECK_CONTAINS(message<GraphError>([&] { graph.add_tensor(tensor("late", {1})); }), "is finished");
  CHECK_CONTAINS(message<GraphError>([&] { graph.find_tensor("nowhere"); }), "no tensor named 'nowhere'");
}

TEST_CASE("a graph must hang together") {
  CHECK_CONTAINS(message<GraphError>([] { Graph("empty").finish(); }), "empty: a graph needs operators");

  // x -> tanh -> y, and what each case adds
  const auto refused = [](const std::function<void(Graph&, TensorId, TensorId)>& extend) {
    Graph graph("g");
    const TensorId x = graph.add_tensor(tensor("x", {4}));
    const TensorId y = graph.add_tensor(tensor("y", {4}));
    graph.add_input(x);
    graph.add_operator({"first", OperatorKind::Tanh, {x}, {y}, {}, 1});
    graph.add_output(y);
    extend(graph, x, y);
    return message<GraphError>([&] { graph.finish(); });
  };
  CHECK_CONTAINS(refused([](Graph& g, TensorId, TensorId y) {
                   const TensorId z = g.add_tensor(tensor("z", {4}));
                   g.add_operator({"second", OperatorKind::Tanh, {y}, {z}, {}, 0});
                   g.add_output(z);
                 }),
                 "tanh 'second': in layer 0, but its input 'y' is made in layer 1");
  CHECK_CONTAINS(refused([](Graph& g, TensorId, TensorId) {
                   const TensorId loose = g.add_tensor(tensor("loose", {4}));
                   const TensorId z = g.add_tensor(tensor("z", {4}));
                   g.add_operator({"second", OperatorKind::Tanh, {loose}, {z}, {}, 1});
                   g.add_output(z);
                 }),
                 "input 'loose' comes from nowhere");
  CHECK_CONTAINS(refused([](Graph& g, TensorId, TensorId y) {
                   const TensorId z = g.add_tensor(tensor("z", {4}));
                   g.add_operator({"dead", OperatorKind::Tanh, {y}, {z}, {}, 1});
                 }),
                 "tanh 'dead': nothing uses its results");
  CHECK_CONTAINS(refused([](Graph& g, TensorId, TensorId y) {
                   const TensorId z = g.add_tensor(tensor("z", {4}));
                   g.add_input(z);
                   g.add_operator({"second", OperatorKind::Tanh, {y}, {z}, {}, 1});
                 }),
                 "input 'z' is made by an operator");
  CHECK_CONTAINS(refused([](Graph& g, TensorId, TensorId y) {
                   const TensorId z = g.add_tensor(tensor("z", {4}));
                   g.add_operator({"far", OperatorKind::Tanh, {y}, {z}, {}, huge - 1});
                   g.add_output(z);
                 }),
                 "tanh 'far': layer");
}

TEST_CASE("hostile shapes and parameters are refused") {
  const Tensor x = tensor("x", {1, 8, 8, 4});
  CHECK_CONTAINS(refusal(OperatorKind::MaxPool2d, {x}, {tensor("y", {1, 4, 4, 4})}, pool(huge, 2)),
                 "too large");
  CHECK_CONTAINS(refusal(OperatorKind::MaxPool2d, {x}, {tensor("y", {1, 4, 4, 4})}, pool(2, 0)), "positive");
  CHECK_CONTAINS(refusal(OperatorKind::MaxPool2d, {x}, {tensor("y", {1, 4, 4, 4})}, pool(9, 1)),
                 "window is larger");
  CHECK_CONTAINS(refusal(OperatorKind::AveragePool2d, {x}, {tensor("y", {1, 4, 4, 4})}, pool(2, 2, 2)),
                 "padding");
  CHECK_CONTAINS(refusal(OperatorKind::MaxPool2d, {x}, {tensor("y", {1, 5, 4, 4})}, pool(2, 2)),
                 "max_pool2d 'op': 'y' has shape [1, 5, 4, 4], expected [1, 4, 4, 4]");
  CHECK_CONTAINS(refusal(OperatorKind::MaxPool2d, {tensor("x", {8, 8})}, {tensor("y", {4, 4})}, pool(2, 2)),
                 "expected 4 dimensions");

  const Tensor w = constant("w", {6, 3, 3, 4});
  OperatorParameters p;
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, tensor("w", {6, 3, 3, 4})}, {tensor("y", {1, 6, 6, 6})}),
                 "weights 'w' are not constant");
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x}, {tensor("y", {1, 6, 6, 6})}), "1 inputs");
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, w, constant("b", {5})}, {tensor("y", {1, 6, 6, 6})}),
                 "bias 'b' [5] does not fit 6 channels");
  CHECK_CONTAINS(
      refusal(OperatorKind::Conv2d, {x, w, constant("b", {6}, DataType::Int32)}, {tensor("y", {1, 6, 6, 6})}),
      "bias 'b' is int32");
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, constant("w", {6, 3, 3, 4}, DataType::Int8)},
                         {tensor("y", {1, 6, 6, 6})}),
                 "types float32 x int8");
  p.groups = 0;
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, w}, {tensor("y", {1, 6, 6, 6})}, p), "in 0 groups");
  p.groups = 3;
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, w}, {tensor("y", {1, 6, 6, 6})}, p), "in 3 groups");
  p = {};
  p.pad_top = huge;  // input + padding would wrap round
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, w}, {tensor("y", {1, 6, 6, 6})}, p), "too large");
  p = {};
  p.dilation_width = huge / 2 + 2;  // (kernel - 1) * dilation would
  CHECK_CONTAINS(refusal(OperatorKind::Conv2d, {x, w}, {tensor("y", {1, 6, 6, 6})}, p), "too large");
  p = {};
  p.clamp_min = std::nanf("");
  CHECK_CONTAINS(refusal(OperatorKind::Tanh, {x}, {tensor("y", {1, 8, 8, 4})}, p), "clamp_min");
  CHECK_CONTAINS(
      refusal(OperatorKind::DepthwiseConv2d, {x, constant("w", {1, 3, 3, 6})}, {tensor("y", {1, 6, 6, 6})}),
      "do not fit input");
  CHECK_CONTAINS(
      refusal(OperatorKind::TransposeConv2d, {x, constant("w", {6, 2, 2, 3})}, {tensor("y", {1, 9, 9, 6})}),
      "do not fit input");

  CHECK_CONTAINS(refusal(OperatorKind::FullyConnected, {x, constant("w", {10, 255})}, {tensor("y", {1, 10})}),
                 "does not fit weights");
  CHECK_CONTAINS(
      refusal(OperatorKind::FullyConnected, {tensor("x", {}), constant("w", {1, 1})}, {tensor("y", {})}),
      "output [] does not fit weights");
  CHECK_CONTAINS(refusal(OperatorKind::Add, {x, tensor("b", {1, 8, 8, 3})}, {tensor("y", {1, 8, 8, 4})}),
                 "do not broadcast");
  CHECK_CONTAINS(
      refusal(OperatorKind::Add, {x, tensor("b", {4}, DataType::Int8)}, {tensor("y", {1, 8, 8, 4})}),
      "'b' is int8, 'y' is float32");
  // As aliases of one buffer these two would differ in size.
  CHECK_CONTAINS(
      refusal(OperatorKind::Reshape, {tensor("x", {256}, DataType::Int8)}, {tensor("y", {16, 16})}),
      "'x' is int8, 'y' is float32");
  CHECK_CONTAINS(refusal(OperatorKind::Reshape, {x}, {tensor("y", {255})}),
                 "cannot reshape [1, 8, 8, 4] to [255]");
  p = {};
  p.axis = 4;
  CHECK_CONTAINS(refusal(OperatorKind::Concat, {x, x}, {tensor("y", {1, 8, 8, 8})}, p), "two tensors");
  CHECK_CONTAINS(refusal(OperatorKind::Split, {x}, {tensor("y", {1, 8, 8, 4})}, p), "axis 4 is out of range");
  p.axis = 3;
  CHECK_CONTAINS(refusal(OperatorKind::Split, {x}, {tensor("y", {1, 8, 8, 3})}, p), "do not add up");
  CHECK_CONTAINS(refusal(OperatorKind::Concat, {x}, {tensor("y", {1, 8, 8, 8})}, p), "do not add up");
  p = {};
  p.axes = {1, huge};
  CHECK_CONTAINS(refusal(OperatorKind::Mean, {x}, {tensor("y", {1, 8, 4})}, p), "out of range");
  p = {};
  p.pad_before = {0, huge, 0, 0}, p.pad_after = {0, 1, 0, 0};  // adds up to the input's size
  CHECK_CONTAINS(refusal(OperatorKind::Pad, {x}, {tensor("y", {1, 8, 8, 4})}, p), "padding is too large");
  p.pad_after = {0, 1};
  CHECK_CONTAINS(refusal(OperatorKind::Pad, {x}, {tensor("y", {1, 8, 8, 4})}, p), "need 4 entries");
  p = {};
  p.begin = {0, 0, 0, 0}, p.size = {1, 8, 8, 4}, p.strides = {1, 2, 1, 1};
  CHECK_CONTAINS(refusal(OperatorKind::StridedSlice, {x}, {tensor("y", {1, 8, 8, 4})}, p), "ends outside");
  p.strides = {1, -1, 1, 1};
  CHECK_CONTAINS(refusal(OperatorKind::StridedSlice, {x}, {tensor("y", {1, 8, 8, 4})}, p), "ends outside");
  p.strides = {1, std::numeric_limits<int64_t>::min(), 1, 1};
  CHECK_CONTAINS(refusal(OperatorKind::StridedSlice, {x}, {tensor("y", {1, 8, 8, 4})}, p), "stride");
  p.begin = {0, huge, 0, 0};
  CHECK_CONTAINS(refusal(OperatorKind::StridedSlice, {x}, {tensor("y", {1, 8, 8, 4})}, p),
                 "dimension 1 is empty");
  CHECK_CONTAINS(refusal(OperatorKind::Quantize, {x}, {tensor("y", {1, 8, 8, 4})}),
                 "output is not quantised");
  CHECK_CONTAINS(refusal(OperatorKind::Dequantize, {x}, {tensor("y", {1, 8, 8, 4})}),
                 "quantised tensor into float32");
  CHECK_CONTAINS(refusal(OperatorKind::ResizeNearest, {x}, {tensor("y", {1, 16, 16, 5})}),
                 "channels must not change");
}

TEST_CASE("an unfinished graph is not run") {
  const auto graph = one(OperatorKind::Tanh, {tensor("x", {4})}, {tensor("y", {4})});
  CHECK_CONTAINS(message<GraphError>([&] { piqi::Interpreter(graph, 1); }), "finish() was not called");
  CHECK_CONTAINS(message<GraphError>([&] { make_manager(graph); }), "finish() was not called");
}

TEST_CASE("every kind of operator has a name that leads back to it") {
  for (int i = 0; i <= static_cast<int>(OperatorKind::LocalResponseNormalization); ++i) {
    const auto kind = static_cast<OperatorKind>(i);
    CHECK(piqi::operator_kind(to_string(kind)) == kind);
  }
  CHECK_CONTAINS(message<piqi::UnsupportedError>([] { piqi::operator_kind("einsum"); }), "'einsum'");
}

TEST_CASE("a reshape that requantises is not an alias") {
  // Between two others, so that it touches no buffer of the caller's.
  Graph graph("g");
  std::vector<TensorId> ids;
  for (const auto& [name, scale, zero] : std::vector<std::tuple<std::string, float, int>>{
           {"x", 1, 0}, {"a", 1, 0}, {"b", 2, 10}, {"y", 2, 10}}) {
    Tensor t = tensor(name, {4}, DataType::Int8);
    t.quantization = {{scale}, zero};
    ids.push_back(graph.add_tensor(t));
  }
  graph.add_input(ids[0]);
  graph.add_operator({"first", OperatorKind::Reshape, {ids[0]}, {ids[1]}, {}, 0});
  graph.add_operator({"second", OperatorKind::Reshape, {ids[1]}, {ids[2]}, {}, 0});
  graph.add_operator({"third", OperatorKind::Reshape, {ids[2]}, {ids[3]}, {}, 0});
  graph.add_output(ids[3]);
  graph.finish();
  const int8_t x[4] = {0, 20, -20, 100};
  int8_t y[4] = {};
  const void* input = x;
  void* output = y;
  piqi::Interpreter(std::make_shared<const Graph>(std::move(graph)), 1).run(&input, &output);
  CHECK(std::vector<int>(y, y + 4) == std::vector<int>{10, 20, 0, 60});
}

TEST_CASE("equal operators share a kernel, others do not") {
  piqi::KernelCache cache;
  const auto graph = chain(3);
  const auto& operators = graph->operators();
  const auto first = cache.get(*graph, operators[0]);
  const size_t bytes = cache.memory_bytes();
  CHECK(bytes >= graph->tensor(operators[0].inputs[1]).size_bytes());
  CHECK(cache.get(*graph, operators[0]) == first);
  CHECK(cache.memory_bytes() == bytes);
  CHECK(cache.get(*graph, operators[1]) != first);
  CHECK(cache.get(*graph, operators[2]) != cache.get(*graph, operators[1]));
  // The same operator with other weights, of another clamp, or of another shape.
  const auto other = chain(3);
  CHECK(cache.get(*other, other->operators()[0]) != first);
  piqi::Operator clamped = operators[0];
  clamped.parameters.clamp_max = 5;
  CHECK(cache.get(*graph, clamped) != first);
  clamped = operators[0];
  const size_t before = cache.memory_bytes();
  cache.trim();
  CHECK(cache.memory_bytes() == bytes);  // `first` alone is still in use
  CHECK(before > bytes);
}

}  // namespace piqi_test
