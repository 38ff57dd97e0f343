// Small networks with random weights, their uncut results, boards, and int8 partitions made by hand.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "piqi/graph_executor.hpp"
#include "piqi/interpreter.hpp"

namespace piqi_test {

using piqi::Graph;
using piqi::npos;
using piqi::OperatorKind;
using piqi::OperatorParameters;
using piqi::Shape;
using piqi::TensorId;

/// Builds a float32 network whose operators carry the names of the tensors they make.
class Network {
 public:
  explicit Network(uint32_t seed = 1) : random_(seed) {}

  TensorId input(const std::string& name, const Shape& shape) {
    const TensorId id = add_tensor(name, shape);
    graph_->add_input(id);
    return id;
  }
  TensorId conv(const std::string& name, TensorId x, size_t channels, size_t layer, size_t kernel = 3,
                size_t stride = 1) {
    const Shape in = shape(x);
    OperatorParameters p;
    p.stride_height = p.stride_width = stride;
    p.pad_top = p.pad_left = p.pad_bottom = p.pad_right = kernel / 2;
    p.clamp_min = 0, p.clamp_max = 6;
    const Shape out{in[0], (in[1] - 1) / stride + 1, (in[2] - 1) / stride + 1, channels};
    return add(OperatorKind::Conv2d, name,
               {x, weights(name + "/w", {channels, kernel, kernel, in[3]}, kernel * kernel * in[3]),
                weights(name + "/b", {channels}, 4)},
               out, layer, p);
  }
  TensorId add(const std::string& name, TensorId a, TensorId b, size_t layer) {
    return add(OperatorKind::Add, name, {a, b}, shape(a), layer);
  }
  TensorId concat(const std::string& name, TensorId a, TensorId b, size_t layer) {
    OperatorParameters p;
    p.axis = 3;
    Shape out = shape(a);
    out[3] += shape(b)[3];
    return add(OperatorKind::Concat, name, {a, b}, out, layer, p);
  }
  TensorId max_pool(const std::string& name, TensorId x, size_t layer) {
    OperatorParameters p;
    p.kernel_height = p.kernel_width = p.stride_height = p.stride_width = 2;
    const Shape in = shape(x);
    return add(OperatorKind::MaxPool2d, name, {x}, {in[0], in[1] / 2, in[2] / 2, in[3]}, layer, p);
  }
  TensorId reshape(const std::string& name, TensorId x, const Shape& to, size_t layer) {
    return add(OperatorKind::Reshape, name, {x}, to, layer);
  }
  TensorId fully_connected(const std::string& name, TensorId x, size_t outputs, size_t layer) {
    const size_t inputs = piqi::element_count(shape(x));
    return add(OperatorKind::FullyConnected, name, {x, weights(name + "/w", {outputs, inputs}, inputs)},
               {1, outputs}, layer);
  }
  std::pair<TensorId, TensorId> split(const std::string& name, TensorId x, size_t layer) {
    Shape half = shape(x);
    half[3] /= 2;
    const TensorId a = add_tensor(name + "_a", half);
    const TensorId b = add_tensor(name + "_b", half);
    OperatorParameters p;
    p.axis = 3;
    graph_->add_operator({name, OperatorKind::Split, {x}, {a, b}, p, layer});
    return {a, b};
  }
  void output(TensorId id) { graph_->add_output(id); }

  std::shared_ptr<const Graph> finish() {
    graph_->finish();
    return graph_;
  }

 private:
  const Shape& shape(TensorId id) const { return graph_->tensor(id).shape; }
  TensorId add_tensor(const std::string& name, const Shape& shape) {
    piqi::Tensor tensor;
    tensor.name = name;
    tensor.shape = shape;
    return graph_->add_tensor(tensor);
  }
  TensorId weights(const std::string& name, const Shape& shape, size_t fan_in) {
    const float range = 1.5f / std::sqrt(static_cast<float>(fan_in));
    std::uniform_real_distribution<float> uniform(-range, range);
    auto values = std::make_shared<std::vector<float>>(piqi::element_count(shape));
    for (float& value : *values) value = uniform(random_);
    piqi::Tensor tensor;
    tensor.name = name;
    tensor.shape = shape;
    tensor.data = std::shared_ptr<const void>(values, values->data());
    return graph_->add_tensor(tensor);
  }
  TensorId add(OperatorKind kind, const std::string& name, std::vector<TensorId> inputs, const Shape& out,
               size_t layer, const OperatorParameters& p = {}) {
    const TensorId id = add_tensor(name, out);
    graph_->add_operator({name, kind, std::move(inputs), {id}, p, layer});
    return id;
  }

  std::mt19937 random_;
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>("network");
};

/// `layers` convolutions in a row.
inline std::shared_ptr<const Graph> chain(size_t layers, size_t size = 8, size_t channels = 8) {
  Network network;
  TensorId x = network.input("x", {1, size, size, 3});
  for (size_t i = 0; i < layers; ++i) x = network.conv("c" + std::to_string(i), x, channels, i);
  network.output(x);
  return network.finish();
}

/// Six layers: two inputs, a skip connection over one layer (add) and one over four (concat), a split whose
/// halves go separate ways, an output that is consumed as well, three outputs.
inline std::shared_ptr<const Graph> branched() {
  Network network;
  const TensorId x = network.input("x", {1, 12, 12, 3});
  const TensorId y = network.input("y", {1, 6, 6, 8});
  const TensorId c0 = network.conv("c0", x, 8, 0);
  const TensorId p0 = network.max_pool("p0", c0, 0);
  const TensorId c1 = network.conv("c1", p0, 8, 1);
  const TensorId c2 = network.conv("c2", c1, 8, 2);
  const TensorId sum = network.add("sum", c2, p0, 2);
  const auto [left, right] = network.split("split", sum, 2);
  const TensorId c3 = network.conv("c3", left, 6, 3);
  const TensorId c4 = network.conv("c4", y, 4, 4);
  const TensorId c4b = network.concat("c4b", c4, right, 4);
  const TensorId c5 = network.conv("c5", c4b, 8, 5);
  const TensorId all = network.concat("all", c5, p0, 5);
  const TensorId flat = network.reshape("flat", all, {1, 576}, 5);
  const TensorId head = network.fully_connected("head", flat, 10, 5);
  for (TensorId id : {c1, c3, head}) network.output(id);
  return network.finish();
}

/// L and B on CPU 0 and 1, G on both (`threads`), N and M (NPUs, emulated) fed by B.
inline std::shared_ptr<const piqi::Board> make_board(size_t threads = 1) {
  using piqi::ProcessorKind;
  const std::vector<uint64_t> opps{100, 200, 300};
  std::vector<piqi::Processor> processors;
  processors.push_back({'L', ProcessorKind::Cpu, "xnnpack", {0}, 1, '\0', opps, "L"});
  processors.push_back({'B', ProcessorKind::Cpu, "xnnpack", {1}, threads, '\0', opps, "B"});
  processors.push_back({'G', ProcessorKind::Gpu, "xnnpack", {0, 1}, threads, 'B', {100, 200}, "G"});
  processors.push_back({'N', ProcessorKind::Npu, "xnnpack", {1}, 1, 'B', {}, ""});
  processors.push_back({'M', ProcessorKind::Npu, "xnnpack", {1}, 1, 'B', {}, ""});
  return std::make_shared<const piqi::Board>("test", std::move(processors));
}

/// A processor that runs as XNNPACK does, but for what a test does before each step and on closing.
class WatchedBackend final : public piqi::Backend {
 public:
  /// Told the sub-graph, and the first number of its first input (which tells a frame from another).
  std::function<void(const piqi::SubGraph&, size_t step, float first)> before_step;
  std::function<void()> on_close;
  bool may_hang = false;
  std::atomic<int> prepared{0}, closed{0};

  std::unique_ptr<piqi::PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                                  const piqi::SubGraph& sub_graph,
                                                  piqi::KernelCache& cache) override {
    ++prepared;
    return std::make_unique<Prepared>(*this, sub_graph, inner_->prepare(graph, sub_graph, cache));
  }

 private:
  class Prepared final : public piqi::PreparedSubGraph {
   public:
    Prepared(WatchedBackend& backend, const piqi::SubGraph& sub_graph,
             std::unique_ptr<piqi::PreparedSubGraph> inner)
        : backend_(backend), sub_graph_(sub_graph), inner_(std::move(inner)) {}
    ~Prepared() override {
      if (backend_.on_close) backend_.on_close();
      ++backend_.closed;
    }
    piqi::Format input_format(size_t i) const override { return inner_->input_format(i); }
    piqi::Format output_format(size_t i) const override { return inner_->output_format(i); }
    void bind(const void* const* inputs, void* const* outputs) override {
      if (!sub_graph_.receivers.empty()) std::memcpy(&first_, inputs[0], sizeof first_);
      inner_->bind(inputs, outputs);
    }
    void run_step(size_t step, pthreadpool_t pool) override {
      if (backend_.before_step) backend_.before_step(sub_graph_, step, first_);
      inner_->run_step(step, pool);
    }
    size_t memory_bytes() const override { return inner_->memory_bytes(); }
    bool may_hang() const override { return backend_.may_hang; }

   private:
    WatchedBackend& backend_;
    const piqi::SubGraph sub_graph_;
    std::unique_ptr<piqi::PreparedSubGraph> inner_;
    float first_ = 0;
  };

  std::shared_ptr<piqi::Backend> inner_ = piqi::make_xnnpack_backend();
};

/// L, B and C, all on the XNNPACK backend but B, whose backend is called "watched".
inline std::shared_ptr<const piqi::Board> make_watched_board() {
  std::vector<piqi::Processor> processors;
  processors.push_back({'L', piqi::ProcessorKind::Cpu, "xnnpack", {0}, 1, '\0', {}, ""});
  processors.push_back({'B', piqi::ProcessorKind::Cpu, "watched", {1}, 1, '\0', {}, ""});
  processors.push_back({'C', piqi::ProcessorKind::Cpu, "xnnpack", {0}, 1, '\0', {}, ""});
  return std::make_shared<const piqi::Board>("watched", std::move(processors));
}

/// Buffers of all inputs, or all outputs, of a graph.
class Frame {
 public:
  Frame(const Graph& graph, const std::vector<TensorId>& ids) {
    for (TensorId id : ids) buffers_.emplace_back(graph.tensor(id).size_bytes());
    for (auto& buffer : buffers_) pointers_.push_back(buffer.data());
  }
  Frame(Frame&&) = default;
  Frame& operator=(Frame&&) = default;
  /// Inputs of random numbers.
  static Frame random(const Graph& graph, uint32_t seed) {
    Frame frame(graph, graph.inputs());
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (auto& buffer : frame.buffers_)
      for (size_t i = 0; i < buffer.size() / sizeof(float); ++i) {
        const float value = uniform(random);
        std::memcpy(buffer.data() + i * sizeof(float), &value, sizeof value);
      }
    return frame;
  }
  static Frame outputs(const Graph& graph) { return Frame(graph, graph.outputs()); }

  const void* const* in() const { return pointers_.data(); }
  void* const* out() { return pointers_.data(); }
  bool operator==(const Frame& other) const { return buffers_ == other.buffers_; }
  const float* floats(size_t i) const { return reinterpret_cast<const float*>(buffers_.at(i).data()); }
  size_t count(size_t i) const { return buffers_.at(i).size() / sizeof(float); }

 private:
  std::vector<std::vector<uint8_t>> buffers_;
  std::vector<void*> pointers_;
};

/// What the uncut graph makes of a frame.
inline Frame uncut(const std::shared_ptr<const Graph>& graph, const Frame& inputs) {
  Frame outputs = Frame::outputs(*graph);
  piqi::Interpreter(graph, 1).run(inputs.in(), outputs.out());
  return outputs;
}

inline std::shared_ptr<piqi::GraphManager> make_manager(
    const std::shared_ptr<const Graph>& graph, const std::shared_ptr<const piqi::Board>& board = make_board(),
    piqi::GraphManager::Backends backends = {}) {
  backends.emplace("xnnpack", piqi::make_xnnpack_backend());
  return std::make_shared<piqi::GraphManager>(graph, board, std::move(backends));
}

using Partitions = std::vector<std::shared_ptr<const piqi::Partition>>;

inline std::unique_ptr<piqi::GraphExecutor> make_executor(const std::shared_ptr<piqi::GraphManager>& manager,
                                                          const std::string& order,
                                                          const Partitions& partitions = {},
                                                          const piqi::ExecutorOptions& options = {}) {
  return std::make_unique<piqi::GraphExecutor>(
      manager, piqi::Plan(manager->board(), manager->graph().layer_count(), order), partitions, options);
}

/// int8 (weights per channel) partitions of a network, quantised by the range of each tensor on one frame.
/// Ranges cover any layers; all agree on every tensor.
class Quantised {
 public:
  Quantised(std::shared_ptr<const Graph> graph, const Frame& sample) : graph_(std::move(graph)) {
    piqi::Interpreter interpreter(graph_, 1, true);
    Frame outputs = Frame::outputs(*graph_);
    interpreter.run(sample.in(), outputs.out());
    for (TensorId id = 0; id < graph_->tensors().size(); ++id) {
      const piqi::Tensor& tensor = graph_->tensor(id);
      if (tensor.is_constant() || (tensor.producer == npos && tensor.consumers.empty())) continue;
      const auto* values = static_cast<const float*>(interpreter.data(id));
      const auto [low, high] = std::minmax_element(values, values + piqi::element_count(tensor.shape));
      const float lowest = std::min(*low, 0.0f);
      const float scale = std::max(std::max(*high, 0.0f) - lowest, 1e-3f) / 255;
      quantization_[id] = {{scale}, static_cast<int32_t>(std::lround(-128 - lowest / scale))};
    }
    // A pool, a split or a reshape keeps what it is given; XNNPACK asks for it.
    for (const piqi::Operator& op : graph_->operators())
      if (op.kind == OperatorKind::MaxPool2d || op.kind == OperatorKind::Split ||
          op.kind == OperatorKind::Reshape)
        for (TensorId id : op.outputs) quantization_[id] = quantization_.at(op.inputs[0]);
  }

  const piqi::Quantization& of(const std::string& tensor) const {
    return quantization_.at(graph_->find_tensor(tensor));
  }
  std::shared_ptr<const piqi::Partition> partition(size_t first, size_t last) const {
    return std::make_shared<const piqi::Partition>(
        piqi::Partition{first, last, part(first, last, true), "", "by hand"});
  }
  /// The range as a network of its own, in int8 or as it is.
  std::shared_ptr<const Graph> part(size_t first, size_t last, bool int8) const {
    auto inner = std::make_shared<Graph>("part");
    std::map<TensorId, TensorId> ids;
    const auto in_range = [&](piqi::OperatorId id) {
      return id != npos && graph_->operators()[id].layer >= first && graph_->operators()[id].layer <= last;
    };
    for (piqi::OperatorId o = 0; o < graph_->operators().size(); ++o) {
      if (!in_range(o)) continue;
      piqi::Operator op = graph_->operators()[o];
      const std::vector<TensorId> inputs = op.inputs;
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (!graph_->tensor(inputs[i]).is_constant())
          op.inputs[i] =
              activation(*inner, ids, inputs[i], in_range(graph_->tensor(inputs[i]).producer), int8);
        else if (int8)
          op.inputs[i] = inner->add_tensor(i == 2 ? quantised_bias(inputs) : quantised_weights(inputs[1]));
        else
          op.inputs[i] = inner->add_tensor(constant(inputs[i]));
      }
      for (TensorId& id : op.outputs) id = activation(*inner, ids, id, true, int8);
      op.layer -= first;
      inner->add_operator(op);
    }
    for (TensorId id = 0; id < graph_->tensors().size(); ++id) {
      const piqi::Tensor& tensor = graph_->tensor(id);
      const auto outside = [&](piqi::OperatorId consumer) { return !in_range(consumer); };
      const bool leaves = std::any_of(tensor.consumers.begin(), tensor.consumers.end(), outside) ||
                          std::count(graph_->outputs().begin(), graph_->outputs().end(), id) > 0;
      if (in_range(tensor.producer) && leaves) inner->add_output(ids.at(id));
    }
    inner->finish();
    return inner;
  }

 private:
  piqi::Tensor constant(TensorId id) const {
    piqi::Tensor tensor = graph_->tensor(id);
    tensor.consumers.clear();
    return tensor;
  }

  TensorId activation(Graph& inner, std::map<TensorId, TensorId>& ids, TensorId id, bool made_inside,
                      bool int8) const {
    const auto known = ids.find(id);
    if (known != ids.end()) return known->second;
    piqi::Tensor tensor;
    tensor.name = graph_->tensor(id).name;
    tensor.shape = graph_->tensor(id).shape;
    if (int8) tensor.type = piqi::DataType::Int8, tensor.quantization = quantization_.at(id);
    const TensorId made = ids[id] = inner.add_tensor(tensor);
    if (!made_inside) inner.add_input(made);
    return made;
  }

  std::vector<float> weight_scales(const piqi::Tensor& weights) const {
    const auto* values = static_cast<const float*>(weights.data.get());
    const size_t channels = weights.shape[0];
    const size_t size = piqi::element_count(weights.shape) / channels;
    std::vector<float> scales(channels);
    for (size_t c = 0; c < channels; ++c)
      for (size_t i = 0; i < size; ++i) scales[c] = std::max(scales[c], std::abs(values[c * size + i]) / 127);
    return scales;
  }

  piqi::Tensor quantised_weights(TensorId id) const {
    const piqi::Tensor weights = constant(id);
    return quantised_constant<int8_t>(weights, weight_scales(weights));
  }

  piqi::Tensor quantised_bias(const std::vector<TensorId>& inputs) const {
    std::vector<float> scales = weight_scales(graph_->tensor(inputs[1]));
    for (float& scale : scales) scale *= quantization_.at(inputs[0]).scales[0];
    return quantised_constant<int32_t>(constant(inputs[2]), std::move(scales));
  }

  template <typename T>
  static piqi::Tensor quantised_constant(piqi::Tensor tensor, std::vector<float> scales) {
    const auto* values = static_cast<const float*>(tensor.data.get());
    const size_t count = piqi::element_count(tensor.shape);
    auto stored = std::make_shared<std::vector<T>>(count);
    for (size_t i = 0; i < count; ++i)
      (*stored)[i] = static_cast<T>(std::lround(values[i] / scales[i / (count / scales.size())]));
    tensor.type = sizeof(T) == 1 ? piqi::DataType::Int8 : piqi::DataType::Int32;
    tensor.quantization = {std::move(scales), 0};
    tensor.data = std::shared_ptr<const void>(stored, stored->data());
    return tensor;
  }

  std::shared_ptr<const Graph> graph_;
  std::map<TensorId, piqi::Quantization> quantization_;
};

/// The message of what `function` throws; fails unless it is an `Exception`.
template <typename Exception, typename Function>
std::string message(Function&& function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  FAIL("nothing was thrown");
  return {};
}

#define CHECK_CONTAINS(text, part)                                                          \
  do {                                                                                      \
    const std::string text_ = (text), part_ = (part);                                       \
    CHECK_MESSAGE(text_.find(part_) != std::string::npos, text_ << "\n  lacks: " << part_); \
  } while (false)

}  // namespace piqi_test
