// 8-bit products against whole numbers: exact sums, times a float, to nearest even. Whoever computes them.
#include <cmath>
#include <random>
#include <type_traits>

#include "network.hpp"
#include "piqi/kernel.hpp"

namespace piqi_test {
namespace {

struct Case {
  size_t rows, depth, columns;
  int32_t input_zero, weight_zero, output_zero;
};

template <typename T>
std::shared_ptr<std::vector<T>> random_values(std::mt19937& random, size_t count, int low, int high) {
  std::uniform_int_distribution<int> uniform(low, high);
  auto values = std::make_shared<std::vector<T>>(count + piqi::extra_bytes);
  for (size_t i = 0; i < count; ++i) (*values)[i] = static_cast<T>(uniform(random));
  return values;
}

template <typename T>
void check(const Case& c, uint32_t seed, bool fully_connected) {
  CAPTURE(c.rows);
  CAPTURE(c.depth);
  CAPTURE(c.columns);
  CAPTURE(seed);
  constexpr bool is_signed = std::is_signed_v<T>;
  constexpr int low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  std::mt19937 random(seed);
  const auto x = random_values<T>(random, c.rows * c.depth, low, high);
  const auto w = random_values<T>(random, c.columns * c.depth, is_signed ? -127 : low, high);
  const auto bias = random_values<int32_t>(random, c.columns, -5000, 5000);
  std::vector<float> scales(is_signed ? c.columns : 1);
  std::uniform_real_distribution<float> uniform(0.001f, 0.02f);
  for (float& scale : scales) scale = uniform(random);
  const float input_scale = 0.05f, output_scale = 0.3f;
  const piqi::DataType type = is_signed ? piqi::DataType::Int8 : piqi::DataType::UInt8;

  Graph graph("product");
  const auto add = [&](const char* name, const Shape& shape, piqi::DataType of,
                       piqi::Quantization quantization, std::shared_ptr<const void> data) {
    piqi::Tensor tensor;
    tensor.name = name, tensor.shape = shape, tensor.type = of;
    tensor.quantization = std::move(quantization), tensor.data = std::move(data);
    return graph.add_tensor(tensor);
  };
  std::vector<float> bias_scales = scales;
  for (float& scale : bias_scales) scale *= input_scale;
  const Shape in = fully_connected ? Shape{c.rows, c.depth} : Shape{1, 1, c.rows, c.depth};
  const Shape kernel = fully_connected ? Shape{c.columns, c.depth} : Shape{c.columns, 1, 1, c.depth};
  const Shape out = fully_connected ? Shape{c.rows, c.columns} : Shape{1, 1, c.rows, c.columns};
  const TensorId ids[4] = {
      add("x", in, type, {{input_scale}, c.input_zero}, nullptr),
      add("w", kernel, type, {scales, c.weight_zero}, {w, w->data()}),
      add("b", {c.columns}, piqi::DataType::Int32, {bias_scales, 0}, {bias, bias->data()}),
      add("y", out, type, {{output_scale}, c.output_zero}, nullptr),
  };
  OperatorParameters parameters;
  parameters.clamp_min = -6, parameters.clamp_max = 20;
  graph.add_operator({"product",
                      fully_connected ? OperatorKind::FullyConnected : OperatorKind::Conv2d,
                      {ids[0], ids[1], ids[2]},
                      {ids[3]},
                      parameters,
                      0});
  graph.add_input(ids[0]);
  graph.add_output(ids[3]);
  graph.finish();

  piqi::AlignedBuffer input(x->size() * sizeof(T)), output(c.rows * c.columns * sizeof(T));
  std::memcpy(input.data(), x->data(), x->size() * sizeof(T));
  const auto made = piqi::make_kernel(graph, graph.operators()[0]);
  const void* from = input.data();
  void* to = output.data();
  made->setup(&from, &to, nullptr);
  made->run(nullptr);

  const auto bound = [&](float real) { return std::nearbyint(real / output_scale) + c.output_zero; };
  const double least = std::max<double>(low, bound(parameters.clamp_min));
  const double most = std::min<double>(high, bound(parameters.clamp_max));
  size_t wrong = 0;
  for (size_t row = 0; row < c.rows; ++row) {
    for (size_t column = 0; column < c.columns; ++column) {
      int64_t sum = (*bias)[column];
      for (size_t k = 0; k < c.depth; ++k)
        sum += (int64_t{(*x)[row * c.depth + k]} - c.input_zero) *
               (int64_t{(*w)[column * c.depth + k]} - c.weight_zero);
      const float scale = input_scale * scales[is_signed ? column : 0] / output_scale;
      const double stored = std::nearbyint(static_cast<float>(sum) * scale) + c.output_zero;
      const auto expected = static_cast<int>(std::clamp(stored, least, most));
      wrong += static_cast<const T*>(to)[row * c.columns + column] != expected;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("8-bit products are exact for every remainder of rows, depth and columns") {
  const std::vector<Case> cases{{1, 1, 1, 0, 0, 0},          {3, 5, 17, -7, 0, 11},
                                {15, 64, 16, -128, 0, -128}, {29, 67, 49, 127, 0, 3},
                                {49, 130, 96, 4, 0, -90},    {9, 515, 33, -3, 0, 0}};
  for (const bool fully_connected : {false, true}) {
    uint32_t seed = 1;
    for (Case c : cases) {
      check<int8_t>(c, ++seed, fully_connected);
      c.input_zero += 128, c.output_zero += 128;
      for (const int32_t weight_zero : {0, 111, 128, 255}) {
        c.weight_zero = weight_zero;
        check<uint8_t>(c, ++seed, fully_connected);
      }
    }
  }
}

}  // namespace piqi_test
