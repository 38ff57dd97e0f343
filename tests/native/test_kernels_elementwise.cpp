// Kernels that map elements or rows: activations, conversions, softmax, local response normalisation.
#include "kernel_case.hpp"

namespace piqi_test {

TEST_CASE("activations") {
  const OperatorKind kinds[] = {OperatorKind::Logistic, OperatorKind::Tanh, OperatorKind::Clamp,
                                OperatorKind::LeakyRelu, OperatorKind::HardSwish};
  for (DataType type : all_types) {
    for (OperatorKind kind : kinds) {
      for (uint32_t seed = 0; seed < 12; ++seed) {
        KernelCase random(seed);
        OperatorParameters p;
        p.alpha = 0.1f;
        if (kind == OperatorKind::Clamp) p.clamp_min = seed % 2 ? 0 : -1, p.clamp_max = seed % 3 ? 1 : 6;
        Value& x = random.input({random.size(1, 3), random.size(1, 70), random.size(1, 900)}, type);
        std::vector<double> expected;
        for (double v : x.real) {
          switch (kind) {
            case OperatorKind::Logistic:
              expected.push_back(1 / (1 + std::exp(-v)));
              break;
            case OperatorKind::Tanh:
              expected.push_back(std::tanh(v));
              break;
            case OperatorKind::LeakyRelu:
              expected.push_back(v < 0 ? v * static_cast<double>(0.1f) : v);
              break;
            case OperatorKind::HardSwish:
              expected.push_back(v * std::min(std::max(v + 3, 0.0), 6.0) / 6);
              break;
            default:
              expected.push_back(v);  // compare() clamps
          }
        }
        random.output(x.tensor.shape, type, expected);
        random.check(kind, p, 0);
      }
    }
  }
}

TEST_CASE("softmax") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 30; ++seed) {
      KernelCase random(seed);
      OperatorParameters p;
      p.beta = seed % 3 ? 1.0f : 0.7f;
      const size_t depth = seed == 0 ? 1 : random.size(1, 1000);
      Value& x = random.input({random.size(1, 9), depth}, type);
      std::vector<double> expected(x.real.size());
      for (size_t row = 0; row < expected.size(); row += depth) {
        double sum = 0;
        for (size_t i = row; i < row + depth; ++i)
          sum += expected[i] = std::exp(static_cast<double>(p.beta) * x.real[i]);
        for (size_t i = row; i < row + depth; ++i) expected[i] /= sum;
      }
      if (type == DataType::Float32) {
        random.output(x.tensor.shape, type, expected);
      } else {
        random.output_like(x.tensor.shape, type, 1.0f / 256, type == DataType::Int8 ? -128 : 0, expected);
      }
      random.check(OperatorKind::Softmax, p);
    }
  }
}

TEST_CASE("local response normalisation") {
  for (DataType type : all_types) {
    for (float beta : {0.75f, 0.5f, 0.6f}) {
      for (uint32_t seed = 0; seed < 10; ++seed) {
        KernelCase random(seed);
        OperatorParameters p;
        p.radius = random.size(0, 5);
        p.bias = 1.5f, p.alpha = 0.3f, p.beta = beta;
        const size_t depth = random.size(1, 40);
        Value& x = random.input({1, random.size(1, 5), random.size(1, 5), depth}, type);
        std::vector<double> expected;
        for (size_t i = 0; i < x.real.size(); ++i) {
          double sum = 0;
          for (size_t j = i / depth * depth; j < i / depth * depth + depth; ++j)
            if (j + p.radius >= i && j <= i + p.radius) sum += x.real[j] * x.real[j];
          expected.push_back(x.real[i] *
                             std::pow(1.5 + static_cast<double>(p.alpha) * sum, -static_cast<double>(beta)));
        }
        random.output(x.tensor.shape, type, expected);
        random.check(OperatorKind::LocalResponseNormalization, p);
      }
    }
  }
}

TEST_CASE("quantise, dequantise, requantise") {
  for (DataType from : all_types) {
    for (DataType to : all_types) {
      const bool quantises = to != DataType::Float32;
      if (from == DataType::Float32 && !quantises) continue;
      for (uint32_t seed = 0; seed < 10; ++seed) {
        KernelCase random(seed);
        Value& x = random.input({random.size(1, 9), random.size(1, 900)}, from);
        random.output(x.tensor.shape, to, x.real);
        // Tables are exact; XNNPACK's float32 conversion multiplies by the reciprocal of the scale.
        random.check(quantises ? OperatorKind::Quantize : OperatorKind::Dequantize, {},
                     from == DataType::Float32 ? 1 : 0);
      }
    }
  }
}

TEST_CASE("a clamp on an operator that cannot fuse one, mixed types and bad quantisation are refused") {
  const auto refuses = [](OperatorKind kind, const OperatorParameters& p, DataType from, DataType to,
                          float scale) {
    KernelCase random(1);
    Value& x = random.input({1, 2, 2, 4}, from);
    random.output_like(x.tensor.shape, to, scale, 0, x.real);
    CHECK_THROWS_AS(random.make(kind, p), piqi::GraphError);
  };
  OperatorParameters clamped;
  clamped.clamp_min = 0;
  refuses(OperatorKind::Logistic, clamped, DataType::Float32, DataType::Float32, 0);
  refuses(OperatorKind::Logistic, {}, DataType::Int8, DataType::UInt8, 1);
  refuses(OperatorKind::Logistic, {}, DataType::Int32, DataType::Int32, 0);
  refuses(OperatorKind::Softmax, {}, DataType::Int32, DataType::Int32, 0);
  refuses(OperatorKind::Tanh, {}, DataType::Int8, DataType::Int8, 1e-42f);  // denormal
}

TEST_CASE("an operator that XNNPACK refuses is named with the cause") {
  KernelCase random(1);
  Value& a = random.input({1, 4}, DataType::Int8);
  random.input({1, 4}, DataType::Int8);
  random.output_like(a.tensor.shape, DataType::Int8, 1e-9f, 0, a.real);
  try {
    random.make(OperatorKind::Add);
    FAIL("accepted a ratio of scales of 1e7");
  } catch (const piqi::UnsupportedError& error) {
    CHECK(std::string(error.what()).find("add 'op'") != std::string::npos);
  }
}

TEST_CASE("an unfinished graph is refused") {
  piqi::Graph graph("half");
  piqi::Tensor x, y;
  x.name = "x", y.name = "y", x.shape = y.shape = {4};
  piqi::Operator op;
  op.kind = OperatorKind::Tanh;
  op.inputs = {graph.add_tensor(x)}, op.outputs = {graph.add_tensor(y)};
  graph.add_operator(op);
  CHECK_THROWS_AS(piqi::make_kernel(graph, graph.operators()[0]), piqi::GraphError);
}

}  // namespace piqi_test
