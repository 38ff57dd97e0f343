#include "network_file.hpp"

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace emulator {
namespace {

using piqi::DataType;
using piqi::Graph;
using piqi::OperatorParameters;

double number(std::istream& in) {
  std::string token;
  in >> token;
  char* end = nullptr;
  const double value = std::strtod(token.c_str(), &end);
  if (token.empty() || *end) throw std::runtime_error("not a number: " + token);
  return value;
}

template <typename T>
std::vector<T> numbers(std::istream& in) {
  std::vector<T> values(static_cast<size_t>(number(in)));
  for (T& value : values) value = static_cast<T>(number(in));
  return values;
}

template <typename T>
void read_into(std::istream& in, T& value) {
  value = static_cast<T>(number(in));
}
template <typename T>
void read_into(std::istream& in, std::vector<T>& values) {
  values = numbers<T>(in);
}

void read_parameter(std::istream& in, const std::string& name, OperatorParameters& p) {
#define PIQI_FIELD(field) \
  if (name == #field) return read_into(in, p.field)
  PIQI_FIELD(stride_height);
  PIQI_FIELD(stride_width);
  PIQI_FIELD(dilation_height);
  PIQI_FIELD(dilation_width);
  PIQI_FIELD(pad_top);
  PIQI_FIELD(pad_left);
  PIQI_FIELD(pad_bottom);
  PIQI_FIELD(pad_right);
  PIQI_FIELD(kernel_height);
  PIQI_FIELD(kernel_width);
  PIQI_FIELD(groups);
  PIQI_FIELD(clamp_min);
  PIQI_FIELD(clamp_max);
  PIQI_FIELD(axis);
  PIQI_FIELD(axes);
  PIQI_FIELD(alpha);
  PIQI_FIELD(beta);
  PIQI_FIELD(bias);
  PIQI_FIELD(radius);
  PIQI_FIELD(align_corners);
  PIQI_FIELD(half_pixel_centers);
  PIQI_FIELD(pad_before);
  PIQI_FIELD(pad_after);
  PIQI_FIELD(pad_value);
  PIQI_FIELD(begin);
  PIQI_FIELD(size);
  PIQI_FIELD(strides);
#undef PIQI_FIELD
  throw std::runtime_error("unknown parameter " + name);
}

std::string rest(std::istream& in) {
  std::string text;
  std::getline(in >> std::ws, text);
  return text;
}

void read_tensor(std::istream& in, Graph& graph, const uint8_t* constants, size_t size) {
  piqi::Tensor tensor;
  std::string type;
  in >> type;
  for (DataType known : {DataType::Float32, DataType::Int8, DataType::UInt8, DataType::Int32})
    if (type == to_string(known)) tensor.type = known;
  tensor.quantization.zero_point = static_cast<int32_t>(number(in));
  tensor.quantization.scales = numbers<float>(in);
  tensor.shape = numbers<size_t>(in);
  const double offset = number(in);
  tensor.name = rest(in);
  if (offset >= 0) {
    if (static_cast<size_t>(offset) + tensor.size_bytes() > size) throw std::runtime_error("truncated");
    auto copy =
        std::make_shared<std::vector<uint8_t>>(constants + static_cast<size_t>(offset),
                                               constants + static_cast<size_t>(offset) + tensor.size_bytes());
    tensor.data = std::shared_ptr<const void>(copy, copy->data());
  }
  graph.add_tensor(std::move(tensor));
}

void read_operator(std::istream& in, Graph& graph) {
  std::string kind;
  in >> kind;
  piqi::Operator op;
  op.kind = piqi::operator_kind(kind);
  op.layer = static_cast<size_t>(number(in));
  op.inputs = numbers<size_t>(in);
  op.outputs = numbers<size_t>(in);
  for (auto count = static_cast<size_t>(number(in)); count > 0; --count) {
    std::string name;
    in >> name;
    read_parameter(in, name, op.parameters);
  }
  op.name = rest(in);
  graph.add_operator(std::move(op));
}

}  // namespace

Network read_network(const uint8_t* data, size_t size) {
  static constexpr char end_of_text[] = "\nconstants\n";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find(end_of_text);
  if (text.substr(0, 10) != "piqi-rknn\n" || end == text.npos) throw std::runtime_error("not a network");
  const size_t constants = end + sizeof end_of_text - 1;
  std::istringstream lines{std::string(text.substr(10, end + 1 - 10))};
  Network network;
  network.graph = std::make_shared<Graph>("network");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line);
    std::string what;
    in >> what;
    if (what == "target") {
      in >> network.target;
    } else if (what == "version") {
      network.version = static_cast<int>(number(in));
    } else if (what == "layers") {
      network.first_layer = static_cast<uint32_t>(number(in));
      network.last_layer = static_cast<uint32_t>(number(in));
    } else if (what == "tensor") {
      read_tensor(in, *network.graph, data + constants, size - constants);
    } else if (what == "operator") {
      read_operator(in, *network.graph);
    } else if (what == "input" || what == "output") {
      const auto id = static_cast<piqi::TensorId>(number(in));
      what == "input" ? network.graph->add_input(id) : network.graph->add_output(id);
      (what == "input" ? network.inputs : network.outputs).push_back(rest(in));
    } else {
      throw std::runtime_error("unknown line " + line);
    }
  }
  network.graph->finish();
  return network;
}

}  // namespace emulator
