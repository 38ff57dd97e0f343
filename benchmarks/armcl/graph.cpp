// A chain of operators on the Arm Compute Library's own graph API (NEON, one thread, NHWC).
//   graph DESCRIPTION WEIGHTS INPUT OUTPUT FRAMES
// A line of DESCRIPTION is an operator (armcl_instructions.py writes it); the other files are float32.
#include <arm_compute/graph.h>

#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace acl = arm_compute;
namespace graph = arm_compute::graph;

namespace {

using Floats = std::vector<float>;

Floats read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  if (bytes.empty()) throw std::runtime_error(path + ": cannot be read");
  Floats values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// Visits a tensor's elements in the order of a dense one.
template <typename Visit>
void for_each(acl::ITensor& tensor, const Visit& visit) {
  const acl::TensorShape& shape = tensor.info()->tensor_shape();
  for (size_t i = 0; i < shape.total_size(); ++i) {
    const acl::Coordinates at = acl::index2coords(shape, static_cast<int>(i));
    visit(*reinterpret_cast<float*>(tensor.ptr_to_element(at)), i);
  }
}

/// Gives a tensor its values: once if constant, else before every frame.
class Fill final : public graph::ITensorAccessor {
 public:
  Fill(const Floats& values, size_t offset) : values_(values), offset_(offset) {}
  bool access_tensor(acl::ITensor& tensor) override {
    const size_t rows = tensor.info()->has_padding() ? 0 : tensor.info()->tensor_shape().total_size();
    if (rows > 0)
      std::memcpy(tensor.buffer(), values_.data() + offset_, rows * sizeof(float));
    else
      for_each(tensor, [&](float& value, size_t i) { value = values_[offset_ + i]; });
    return true;
  }

 private:
  const Floats& values_;
  const size_t offset_;
};

/// Keeps the output and ends after some frames.
class Take final : public graph::ITensorAccessor {
 public:
  Take(std::string path, int frames) : path_(std::move(path)), frames_(frames) {}
  bool access_tensor(acl::ITensor& tensor) override {
    if (--frames_ > 0) return true;
    std::ofstream file(path_, std::ios::binary);
    for_each(tensor,
             [&](float& value, size_t) { file.write(reinterpret_cast<char*>(&value), sizeof value); });
    return false;
  }

 private:
  const std::string path_;
  int frames_;
};

void build(graph::frontend::Stream& stream, std::istream& description, const Floats& weights,
           const Floats& input) {
  using namespace graph::frontend;
  const auto fill = [](const Floats& values, size_t offset) {
    return std::make_unique<Fill>(values, offset);
  };
  std::string line;
  while (std::getline(description, line)) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    const auto next = [&words] {
      size_t value = 0;
      words >> value;
      return static_cast<unsigned>(value);
    };
    if (kind == "input") {
      const unsigned channels = next(), width = next(), height = next();
      const graph::TensorDescriptor tensor(acl::TensorShape(channels, width, height, 1U), acl::DataType::F32,
                                           acl::QuantizationInfo(), acl::DataLayout::NHWC);
      stream << InputLayer(tensor, fill(input, 0));
    } else if (kind == "conv2d" || kind == "depthwise_conv2d") {
      const unsigned width = next(), height = next(), filters = next(), stride_x = next(), stride_y = next();
      const unsigned left = next(), right = next(), top = next(), bottom = next();
      const size_t values = next(), bias = next();
      const acl::PadStrideInfo info(stride_x, stride_y, left, right, top, bottom,
                                    acl::DimensionRoundingType::FLOOR);
      if (kind == "conv2d")
        stream << ConvolutionLayer(width, height, filters, fill(weights, values), fill(weights, bias), info);
      else
        stream << DepthwiseConvolutionLayer(width, height, fill(weights, values), fill(weights, bias), info);
      if (next() == 1)
        stream << ActivationLayer(
            acl::ActivationLayerInfo(acl::ActivationLayerInfo::ActivationFunction::BOUNDED_RELU, 6.0F));
    } else if (kind == "mean") {
      stream << PoolingLayer(acl::PoolingLayerInfo(acl::PoolingType::AVG, acl::DataLayout::NHWC));
    } else if (kind == "reshape") {
      stream << ReshapeLayer(acl::TensorShape(next()));
    } else if (kind == "softmax") {
      stream << SoftmaxLayer();
    } else {
      throw std::runtime_error("unknown operator " + kind);
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) throw std::runtime_error("expected DESCRIPTION WEIGHTS INPUT OUTPUT FRAMES");
  std::ifstream description(argv[1]);
  const Floats weights = read(argv[2]), input = read(argv[3]);
  graph::frontend::Stream stream(0, "network");
  stream << graph::Target::NEON << graph::FastMathHint::Disabled;
  build(stream, description, weights, input);
  stream << graph::frontend::OutputLayer(std::make_unique<Take>(argv[4], std::stoi(argv[5])));
  graph::GraphConfig config;
  config.num_threads = 1;
  stream.finalize(graph::Target::NEON, config);
  stream.run();
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
