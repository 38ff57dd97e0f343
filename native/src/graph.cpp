#include "piqi/graph.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "shape_rules.hpp"

namespace piqi {
namespace {

constexpr std::array<const char*, 26> kind_names = {"conv2d",
                                                    "depthwise_conv2d",
                                                    "transpose_conv2d",
                                                    "fully_connected",
                                                    "add",
                                                    "subtract",
                                                    "multiply",
                                                    "concat",
                                                    "split",
                                                    "max_pool2d",
                                                    "average_pool2d",
                                                    "mean",
                                                    "pad",
                                                    "reshape",
                                                    "softmax",
                                                    "logistic",
                                                    "tanh",
                                                    "clamp",
                                                    "leaky_relu",
                                                    "hard_swish",
                                                    "resize_nearest",
                                                    "resize_bilinear",
                                                    "quantize",
                                                    "dequantize",
                                                    "strided_slice",
                                                    "local_response_normalization"};

// A tensor beyond this is a broken file rather than a network for such a board.
constexpr size_t max_elements = size_t{1} << 31;
constexpr size_t max_layer = 65'535;

}  // namespace

size_t size_of(DataType type) {
  switch (type) {
    case DataType::Int8:
    case DataType::UInt8:
      return 1;
    case DataType::Float32:
    case DataType::Int32:
      return 4;
  }
  return 0;
}

const char* to_string(DataType type) {
  switch (type) {
    case DataType::Float32:
      return "float32";
    case DataType::Int8:
      return "int8";
    case DataType::UInt8:
      return "uint8";
    case DataType::Int32:
      return "int32";
  }
  return "?";
}

size_t element_count(const Shape& shape) {
  size_t count = 1;
  for (size_t extent : shape) {
    if (extent != 0 && count > max_elements / extent)
      throw GraphError("shape " + to_string(shape) + " has too many elements");
    count *= extent;
  }
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

const char* to_string(OperatorKind kind) {
  return kind_names.at(static_cast<size_t>(kind));
}

OperatorKind operator_kind(const std::string& name) {
  const auto found = std::find(kind_names.begin(), kind_names.end(), name);
  if (found == kind_names.end()) throw UnsupportedError("unknown operator kind '" + name + "'");
  return static_cast<OperatorKind>(found - kind_names.begin());
}

TensorId Graph::add_tensor(Tensor tensor) {
  if (finished_) throw GraphError(name_ + ": is finished, tensor '" + tensor.name + "' cannot be added");
  if (tensor.shape.size() > 6)
    throw GraphError("tensor '" + tensor.name + "': " + std::to_string(tensor.shape.size()) +
                     " dimensions, at most 6 are supported");
  if (element_count(tensor.shape) == 0)
    throw GraphError("tensor '" + tensor.name + "': empty shape " + to_string(tensor.shape));
  for (float scale : tensor.quantization.scales)
    if (!(scale > 0) || !std::isfinite(scale))
      throw GraphError("tensor '" + tensor.name + "': scale " + std::to_string(scale) +
                       " is not positive and finite");
  const bool quantised = tensor.type == DataType::Int8 || tensor.type == DataType::UInt8;
  if (quantised && tensor.quantization.scales.empty())
    throw GraphError("tensor '" + tensor.name + "': " + to_string(tensor.type) + " without a scale");
  const int32_t lowest = tensor.type == DataType::UInt8 ? 0 : -128;
  const int32_t zero_point = tensor.quantization.zero_point;
  if (quantised && (zero_point < lowest || zero_point > lowest + 255))
    throw GraphError("tensor '" + tensor.name + "': zero point " + std::to_string(zero_point) +
                     " is not of " + to_string(tensor.type));
  const TensorId id = tensors_.size();
  if (!by_name_.emplace(tensor.name, id).second)
    throw GraphError("two tensors are named '" + tensor.name + "'");
  tensors_.push_back(std::move(tensor));
  return id;
}

OperatorId Graph::add_operator(Operator op) {
  if (finished_) throw GraphError(name_ + ": is finished, operator '" + op.name + "' cannot be added");
  const OperatorId id = operators_.size();
  const std::string label = std::string(to_string(op.kind)) + " '" + op.name + "'";
  if (op.inputs.empty() || op.outputs.empty()) throw GraphError(label + ": has no inputs or no outputs");
  for (TensorId input : op.inputs)
    if (input >= tensors_.size()) throw GraphError(label + ": unknown input tensor " + std::to_string(input));
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    const TensorId output = op.outputs[i];
    if (output >= tensors_.size())
      throw GraphError(label + ": unknown output tensor " + std::to_string(output));
    const Tensor& tensor = tensors_[output];
    const auto own = op.outputs.begin() + static_cast<std::ptrdiff_t>(i);
    if (tensor.is_constant() || tensor.producer != npos || !tensor.consumers.empty() ||
        std::find(op.outputs.begin(), own, output) != own ||
        std::find(op.inputs.begin(), op.inputs.end(), output) != op.inputs.end())
      throw GraphError(label + ": output '" + tensor.name + "' is a constant, made twice or used too early");
  }
  for (TensorId output : op.outputs) tensors_[output].producer = id;
  for (TensorId input : op.inputs) {
    std::vector<OperatorId>& consumers = tensors_[input].consumers;
    if (consumers.empty() || consumers.back() != id) consumers.push_back(id);
  }
  operators_.push_back(std::move(op));
  return id;
}

void Graph::add_input(TensorId tensor) {
  if (tensor >= tensors_.size() || tensors_[tensor].is_constant() || tensors_[tensor].producer != npos)
    throw GraphError(name_ + ": input " + std::to_string(tensor) + " is not a free tensor");
  if (std::find(inputs_.begin(), inputs_.end(), tensor) != inputs_.end())
    throw GraphError(name_ + ": input '" + tensors_[tensor].name + "' is named twice");
  inputs_.push_back(tensor);
}

void Graph::add_output(TensorId tensor) {
  if (tensor >= tensors_.size() || tensors_[tensor].producer == npos)
    throw GraphError(name_ + ": output " + std::to_string(tensor) + " is made by no operator");
  if (std::find(outputs_.begin(), outputs_.end(), tensor) != outputs_.end())
    throw GraphError(name_ + ": output '" + tensors_[tensor].name + "' is named twice");
  outputs_.push_back(tensor);
}

TensorId Graph::find_tensor(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) throw GraphError(name_ + ": no tensor named '" + name + "'");
  return found->second;
}

void Graph::finish() {
  if (finished_) return;
  if (operators_.empty() || inputs_.empty() || outputs_.empty())
    throw GraphError(name_ + ": a graph needs operators, inputs and outputs");
  for (TensorId id : inputs_)
    if (tensors_[id].producer != npos)
      throw GraphError(name_ + ": input '" + tensors_[id].name + "' is made by an operator");
  for (const Operator& op : operators_) {
    const std::string label = std::string(to_string(op.kind)) + " '" + op.name + "'";
    for (TensorId id : op.inputs) {
      const Tensor& tensor = tensors_[id];
      if (tensor.is_constant()) continue;
      if (tensor.producer == npos) {
        if (std::find(inputs_.begin(), inputs_.end(), id) == inputs_.end())
          throw GraphError(label + ": input '" + tensor.name + "' comes from nowhere");
      } else if (operators_[tensor.producer].layer > op.layer) {
        throw GraphError(label + ": in layer " + std::to_string(op.layer) + ", but its input '" +
                         tensor.name + "' is made in layer " +
                         std::to_string(operators_[tensor.producer].layer));
      }
    }
    check_shapes(*this, op);
    if (std::none_of(op.outputs.begin(), op.outputs.end(), [&](TensorId id) {
          return !tensors_[id].consumers.empty() ||
                 std::find(outputs_.begin(), outputs_.end(), id) != outputs_.end();
        }))
      throw GraphError(label + ": nothing uses its results");
    if (op.layer > max_layer)
      throw GraphError(label + ": layer " + std::to_string(op.layer) + " is above " +
                       std::to_string(max_layer));
    layer_count_ = std::max(layer_count_, op.layer + 1);
  }
  finished_ = true;
}

}  // namespace piqi
