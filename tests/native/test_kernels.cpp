// Kernels that multiply and sum, against straightforward loops in double precision.
#include <pthreadpool.h>

#include <limits>

#include "kernel_case.hpp"
#include "xnnpack_operators.hpp"

namespace piqi_test {
namespace {

struct Window {
  size_t before, after, kernel, stride, dilation, output;
};

/// A random window that fits an input of `extent`.
Window random_window(KernelCase& random, size_t extent, size_t kernel, size_t stride, size_t dilation) {
  Window w{0, 0, kernel, stride, dilation, 0};
  const size_t span = (kernel - 1) * dilation + 1;
  w.before = random.size(0, static_cast<int>(kernel) - 1);
  w.after = random.size(0, static_cast<int>(kernel) - 1);
  while (extent + w.before + w.after < span) ++w.before;
  w.output = (extent + w.before + w.after - span) / stride + 1;
  return w;
}

void set_windows(OperatorParameters* p, const Window& h, const Window& w) {
  p->stride_height = h.stride, p->stride_width = w.stride;
  p->dilation_height = h.dilation, p->dilation_width = w.dilation;
  p->pad_top = h.before, p->pad_bottom = h.after, p->pad_left = w.before, p->pad_right = w.after;
}

/// Index of the input under tap `k` of output `o`, or npos in the padding.
size_t tap(const Window& w, size_t o, size_t k, size_t extent) {
  const size_t position = o * w.stride + k * w.dilation;
  return position < w.before || position - w.before >= extent ? piqi::npos : position - w.before;
}

/// `depthwise`: weights [1, KH, KW, C * multiplier]; otherwise [O, KH, KW, I / groups].
std::vector<double> convolve(const Value& x, const Value& weights, const Value* bias, const Window& h,
                             const Window& w, size_t channels, size_t groups, bool depthwise) {
  const Shape& in = x.tensor.shape;
  std::vector<double> result;
  const size_t group_in = in[3] / groups, group_out = channels / groups;
  for (size_t n = 0; n < in[0]; ++n)
    for (size_t oy = 0; oy < h.output; ++oy)
      for (size_t ox = 0; ox < w.output; ++ox)
        for (size_t o = 0; o < channels; ++o) {
          double sum = bias ? bias->real[o] : 0;
          for (size_t ky = 0; ky < h.kernel; ++ky)
            for (size_t kx = 0; kx < w.kernel; ++kx) {
              const size_t iy = tap(h, oy, ky, in[1]), ix = tap(w, ox, kx, in[2]);
              if (iy == piqi::npos || ix == piqi::npos) continue;
              for (size_t i = 0; i < group_in; ++i)
                sum += at(x, n, iy, ix, o / group_out * group_in + i) *
                       (depthwise ? at(weights, 0, ky, kx, o) : at(weights, o, ky, kx, i));
            }
          result.push_back(sum);
        }
  return result;
}

OperatorParameters with_random_clamp(KernelCase& random) {
  OperatorParameters p;
  const int choice = random.uniform(0, 2);
  if (choice > 0) p.clamp_min = 0;
  if (choice > 1) p.clamp_max = 1.5f;
  return p;
}

void check_convolution(uint32_t seed, DataType type, bool depthwise) {
  KernelCase random(seed);
  const size_t groups = depthwise ? random.size(1, 20) : random.size(1, 3);
  const size_t group_in = depthwise ? 1 : random.size(1, 9), group_out = random.size(1, depthwise ? 3 : 20);
  const size_t kernels[] = {1, 2, 3, 5, 7};
  const size_t height = random.size(1, 9), width = random.size(1, 9), channels = groups * group_out;
  const Window h =
      random_window(random, height, kernels[random.size(0, 4)], random.size(1, 3), random.size(1, 2));
  const Window w =
      random_window(random, width, kernels[random.size(0, 4)], random.size(1, 3), random.size(1, 2));
  OperatorParameters p = with_random_clamp(random);
  set_windows(&p, h, w);
  p.groups = depthwise ? 1 : groups;

  Value& x = random.input({random.size(1, 2), height, width, groups * group_in}, type);
  const Shape shape =
      depthwise ? Shape{1, h.kernel, w.kernel, channels} : Shape{channels, h.kernel, w.kernel, group_in};
  Value& weights = random.weights(shape, type, depthwise ? 3 : 0, random.uniform(0, 3) > 0);
  const Value* const bias = random.uniform(0, 2) > 0 ? &random.bias(channels, x, weights) : nullptr;
  random.output({x.tensor.shape[0], h.output, w.output, channels}, type,
                convolve(x, weights, bias, h, w, channels, groups, depthwise));
  random.check(depthwise ? OperatorKind::DepthwiseConv2d : OperatorKind::Conv2d, p);
}

/// Runs the kernel without a pool, then on `threads`: the same bits, right values, nothing behind the end.
void check_threads(KernelCase& random, OperatorKind kind, const OperatorParameters& p) {
  INFO(piqi::to_string(kind) << " " << random.describe());
  const auto kernel = random.make(kind, p);
  const Buffer& out = random.outputs()[0]->buffer;
  kernel->setup(random.input_pointers().data(), random.output_pointers().data(), nullptr);
  kernel->run(nullptr);
  random.compare(p, 0);
  const std::vector<uint8_t> alone(out.data(), out.data() + out.size());
  for (size_t threads : {2u, 3u}) {
    const std::unique_ptr<pthreadpool, void (*)(pthreadpool_t)> pool(pthreadpool_create(threads),
                                                                     pthreadpool_destroy);
    std::memset(out.data(), 0xFF, out.size());
    kernel->setup(random.input_pointers().data(), random.output_pointers().data(), pool.get());
    kernel->run(pool.get());
    CHECK(std::memcmp(out.data(), alone.data(), out.size()) == 0);
    CHECK(out.is_intact());
  }
}

void check_pointwise(uint32_t seed, const Shape& in, size_t columns) {
  KernelCase random(seed);
  const OperatorParameters p = with_random_clamp(random);
  const Window one{0, 0, 1, 1, 1, in[1]}, other{0, 0, 1, 1, 1, in[2]};
  Value& x = random.input(in, DataType::Float32);
  Value& weights = random.weights({columns, 1, 1, in[3]}, DataType::Float32, 0, false);
  const Value* const bias = seed % 3 ? &random.bias(columns, x, weights) : nullptr;
  random.output({in[0], in[1], in[2], columns}, DataType::Float32,
                convolve(x, weights, bias, one, other, columns, 1, false));
  check_threads(random, OperatorKind::Conv2d, p);
}

}  // namespace

TEST_CASE("convolution") {
  for (DataType type : all_types)
    for (uint32_t seed = 0; seed < 150; ++seed) check_convolution(seed, type, false);
}

TEST_CASE("depthwise convolution") {
  for (DataType type : all_types)
    for (uint32_t seed = 0; seed < 150; ++seed) check_convolution(seed, type, true);
}

TEST_CASE("pointwise convolution: every remainder of rows, columns and depth, any number of threads") {
  for (size_t rows = 1; rows <= 30; ++rows) check_pointwise(static_cast<uint32_t>(rows), {1, 1, rows, 7}, 48);
  for (size_t columns = 1; columns <= 100; ++columns)
    check_pointwise(static_cast<uint32_t>(columns), {1, 3, 5, columns % 5 + 1}, columns);
  for (uint32_t seed = 0; seed < 40; ++seed) {
    KernelCase random(seed);
    check_pointwise(seed, {random.size(1, 3), random.size(1, 12), random.size(1, 12), random.size(1, 90)},
                    random.size(1, 130));
  }
  // Several tiles of rows, and panels that are shared out.
  check_pointwise(1, {2, 23, 19, 100}, 65);
  check_pointwise(2, {1, 7, 7, 400}, 115);
  check_pointwise(3, {1, 1, 1, 1500}, 300);
  check_pointwise(4, {1, 3, 5, 9000}, 17);
}

TEST_CASE("depthwise 3x3 convolution: every remainder, padding on any side, any number of threads") {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    KernelCase random(seed);
    const size_t height = random.size(1, 13), width = random.size(1, 13), stride = random.size(1, 2);
    const size_t channels = random.size(1, 50), batch = random.size(1, 2);
    OperatorParameters p = with_random_clamp(random);
    const Window h = random_window(random, height, 3, stride, 1),
                 w = random_window(random, width, 3, stride, 1);
    set_windows(&p, h, w);
    Value& x = random.input({batch, height, width, channels}, DataType::Float32);
    Value& weights = random.weights({1, 3, 3, channels}, DataType::Float32, 3, false);
    const Value* const bias = seed % 3 ? &random.bias(channels, x, weights) : nullptr;
    random.output({batch, h.output, w.output, channels}, DataType::Float32,
                  convolve(x, weights, bias, h, w, channels, channels, true));
    check_threads(random, OperatorKind::DepthwiseConv2d, p);
  }
  KernelCase random(1);  // large enough for a pool
  const Window w{1, 1, 3, 1, 1, 56};
  OperatorParameters p;
  set_windows(&p, w, w);
  Value& x = random.input({1, 56, 56, 40}, DataType::Float32);
  Value& weights = random.weights({1, 3, 3, 40}, DataType::Float32, 3, false);
  random.output({1, 56, 56, 40}, DataType::Float32, convolve(x, weights, nullptr, w, w, 40, 40, true));
  check_threads(random, OperatorKind::DepthwiseConv2d, p);
}

TEST_CASE("convolutions read no further than extra_bytes and write no further than their output") {
  for (const bool depthwise : {false, true}) {
    for (size_t channels : {1u, 15u, 16u, 24u, 33u, 48u}) {
      KernelCase random(static_cast<uint32_t>(channels));
      const size_t border = depthwise ? 1 : 0, taps = depthwise ? 3 : 1;
      const Window w{border, border, taps, 1, 1, 7};
      OperatorParameters p;
      set_windows(&p, w, w);
      Value& x = random.input({1, 7, 7, channels}, DataType::Float32);
      const Shape shape = depthwise ? Shape{1, 3, 3, channels} : Shape{channels, 1, 1, channels};
      Value& weights = random.weights(shape, DataType::Float32, 0, false);
      Value& y =
          random.output({1, 7, 7, channels}, DataType::Float32,
                        convolve(x, weights, nullptr, w, w, channels, depthwise ? channels : 1, depthwise));
      const auto kernel = random.make(depthwise ? OperatorKind::DepthwiseConv2d : OperatorKind::Conv2d, p);
      const GuardedBuffer in(x.buffer), out(y.buffer);
      const void* const input = in.data();
      void* const output = out.data();
      kernel->setup(&input, &output, nullptr);
      kernel->run(nullptr);
      std::memcpy(y.buffer.data(), out.data(), y.buffer.size());
      random.compare(p, 0);
    }
  }
}

// What becomes of NaN differs between the kernels of XNNPACK's newer releases.
TEST_CASE("infinities and NaN pass through a clamp as they do in XNNPACK" *
          doctest::skip(PIQI_XNNPACK_2024)) {
  // Convolutions with strides are XNNPACK's; this one makes every second row of what no stride makes.
  for (const bool depthwise : {false, true}) {
    for (uint32_t seed = 0; seed < 12; ++seed) {
      const size_t channels = 20, taps = depthwise ? 3 : 1;
      std::vector<float> results[2];
      for (size_t stride : {1u, 2u}) {
        KernelCase random(seed);
        OperatorParameters p = with_random_clamp(random);
        const Window w{0, 0, taps, 1, 1, 10 - taps + 1}, h{0, 0, taps, stride, 1, (10 - taps) / stride + 1};
        set_windows(&p, h, w);
        Value& x = random.input({1, 10, 10, channels}, DataType::Float32);
        constexpr float infinity = std::numeric_limits<float>::infinity();
        const float special[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()};
        for (size_t i = 0; i < 12; ++i)
          reinterpret_cast<float*>(x.buffer.data())[random.size(0, 100 * channels - 1)] = special[i % 3];
        random.weights(depthwise ? Shape{1, 3, 3, channels} : Shape{channels, 1, 1, channels},
                       DataType::Float32, 0, false);
        Value& y = random.output({1, h.output, w.output, channels}, DataType::Float32);
        const auto kernel = random.make(depthwise ? OperatorKind::DepthwiseConv2d : OperatorKind::Conv2d, p);
        kernel->setup(random.input_pointers().data(), random.output_pointers().data(), nullptr);
        kernel->run(nullptr);
        const auto* const row = reinterpret_cast<const float*>(y.buffer.data());
        for (size_t r = 0; r < h.output; r += 3 - stride)
          results[stride - 1].insert(results[stride - 1].end(), row + r * w.output * channels,
                                     row + (r + 1) * w.output * channels);
      }
      REQUIRE(results[0].size() == results[1].size());
      size_t differing = 0;
      for (size_t i = 0; i < results[0].size(); ++i) {
        const float a = results[0][i], b = results[1][i];
        const bool equal = a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= 1e-5f;
        differing += equal ? 0 : 1;
      }
      CHECK(differing == 0);
    }
  }
}

TEST_CASE("depthwise convolution of one channel into several") {
  for (DataType type : all_types) {
    for (size_t multiplier : {1u, 2u, 8u, 17u}) {
      KernelCase random(static_cast<uint32_t>(multiplier));
      const Window h{1, 1, 3, 1, 1, 6}, w{0, 1, 3, 2, 1, 3};
      OperatorParameters p;
      set_windows(&p, h, w);
      Value& x = random.input({1, 6, 6, 1}, type);
      Value& weights = random.weights({1, 3, 3, multiplier}, type, 3, true);
      random.output({1, 6, 3, multiplier}, type, convolve(x, weights, nullptr, h, w, multiplier, 1, true));
      random.check(OperatorKind::DepthwiseConv2d, p);
    }
  }
}

TEST_CASE("transposed convolution") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 150; ++seed) {
      KernelCase random(seed);
      const size_t channels = random.size(1, 9), depth = random.size(1, 9), batch = random.size(1, 2);
      // The forward convolution goes from the output (its size is chosen) to the input (its size follows).
      const size_t height = random.size(2, 11), width = random.size(2, 11);
      const Window h = random_window(random, height, random.size(1, 4), random.size(1, 3), 1);
      const Window w = random_window(random, width, random.size(1, 4), random.size(1, 3), 1);
      OperatorParameters p = with_random_clamp(random);
      set_windows(&p, h, w);
      Value& x = random.input({batch, h.output, w.output, depth}, type);
      Value& weights =
          random.weights({channels, h.kernel, w.kernel, depth}, type, 0, random.uniform(0, 1) > 0);
      const Value* const bias = random.uniform(0, 1) > 0 ? &random.bias(channels, x, weights) : nullptr;

      std::vector<double> expected(batch * height * width * channels);
      for (size_t i = 0; bias && i < expected.size(); ++i) expected[i] = bias->real[i % channels];
      for (size_t n = 0; n < batch; ++n)
        for (size_t iy = 0; iy < h.output; ++iy)
          for (size_t ix = 0; ix < w.output; ++ix)
            for (size_t ky = 0; ky < h.kernel; ++ky)
              for (size_t kx = 0; kx < w.kernel; ++kx) {
                const size_t oy = tap(h, iy, ky, height), ox = tap(w, ix, kx, width);
                if (oy == piqi::npos || ox == piqi::npos) continue;
                for (size_t o = 0; o < channels; ++o)
                  for (size_t i = 0; i < depth; ++i)
                    expected[((n * height + oy) * width + ox) * channels + o] +=
                        at(x, n, iy, ix, i) * at(weights, o, ky, kx, i);
              }
      const bool exact = type == DataType::Int8 && weights.tensor.quantization.scales.size() > 1;
      random.output({batch, height, width, channels}, type, expected);
      random.check(OperatorKind::TransposeConv2d, p, exact ? 0 : 1);
    }
  }
}

TEST_CASE("fully connected") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 80; ++seed) {
      KernelCase random(seed);
      const size_t batch = random.size(1, 5), inputs = random.size(1, 70), outputs = random.size(1, 40);
      OperatorParameters p = with_random_clamp(random);
      Value& x = random.input(seed % 2 ? Shape{batch, inputs} : Shape{batch, 1, 1, inputs}, type);
      Value& weights = random.weights({outputs, inputs}, type, 0, random.uniform(0, 1) > 0);
      const Value* const bias = random.uniform(0, 1) > 0 ? &random.bias(outputs, x, weights) : nullptr;
      std::vector<double> expected;
      for (size_t n = 0; n < batch; ++n)
        for (size_t o = 0; o < outputs; ++o) {
          double sum = bias ? bias->real[o] : 0;
          for (size_t i = 0; i < inputs; ++i) sum += x.real[n * inputs + i] * weights.real[o * inputs + i];
          expected.push_back(sum);
        }
      random.output({batch, outputs}, type, expected);
      random.check(OperatorKind::FullyConnected, p);
    }
  }
}

TEST_CASE("max and average pooling") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 200; ++seed) {
      KernelCase random(seed);
      const bool max = seed % 2, same = seed % 4 < 2;
      const size_t height = random.size(3, 12), width = random.size(3, 12), channels = random.size(1, 300);
      const Window h = random_window(random, height, random.size(1, 3), random.size(1, 3), 1);
      const Window w = random_window(random, width, random.size(1, 3), random.size(1, 3), 1);
      OperatorParameters p = with_random_clamp(random);
      set_windows(&p, h, w);
      p.kernel_height = h.kernel, p.kernel_width = w.kernel;
      Value& x = random.input({random.size(1, 2), height, width, channels}, type);
      std::vector<double> expected;
      for (size_t n = 0; n < x.tensor.shape[0]; ++n)
        for (size_t oy = 0; oy < h.output; ++oy)
          for (size_t ox = 0; ox < w.output; ++ox)
            for (size_t c = 0; c < channels; ++c) {
              double highest = -1e9, sum = 0, count = 0;
              for (size_t ky = 0; ky < h.kernel; ++ky)
                for (size_t kx = 0; kx < w.kernel; ++kx) {
                  const size_t iy = tap(h, oy, ky, height), ix = tap(w, ox, kx, width);
                  if (iy == piqi::npos || ix == piqi::npos) continue;
                  highest = std::max(highest, at(x, n, iy, ix, c));
                  sum += at(x, n, iy, ix, c);
                  ++count;
                }
              expected.push_back(max ? highest : sum / count);
            }
      const Shape shape{x.tensor.shape[0], h.output, w.output, channels};
      if (same && type != DataType::Float32) {
        random.output_like(shape, type, static_cast<float>(x.scale()), x.tensor.quantization.zero_point,
                           expected);
      } else {
        random.output(shape, type, expected);
      }
      // Average: sums are exact, but a tie may fall either way in the reference's own rounding.
      random.check(max ? OperatorKind::MaxPool2d : OperatorKind::AveragePool2d, p, max ? 0 : 1);
    }
  }
}

TEST_CASE("mean over any axes") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 120; ++seed) {
      KernelCase random(seed);
      Shape shape(random.size(1, 5));
      for (size_t& extent : shape) extent = random.size(1, 9);
      if (seed % 3 == 0)
        shape = {random.size(1, 2), random.size(1, 9), random.size(1, 9), random.size(1, 600)};
      OperatorParameters p;
      for (size_t axis = 0; axis < shape.size(); ++axis)
        if (seed % 3 == 0 ? axis == 1 || axis == 2 : random.uniform(0, 1) > 0) p.axes.push_back(axis);
      if (p.axes.empty()) p.axes = {0};
      Shape kept = shape;
      for (size_t axis : p.axes) kept[axis] = 1;
      Value& x = random.input(shape, type);
      std::vector<double> expected(piqi::element_count(kept));
      for (size_t i = 0; i < x.real.size(); ++i) {
        size_t target = 0, stride = 1, rest = i;
        for (size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) {
          if (kept[axis] != 1) target += rest % shape[axis] * stride;
          stride *= kept[axis];
        }
        expected[target] +=
            x.real[i] * static_cast<double>(expected.size()) / static_cast<double>(x.real.size());
      }
      random.output(kept, type, expected);
      random.check(OperatorKind::Mean, p, 1, 1e-4);
    }
  }
}

TEST_CASE("add, subtract, multiply with broadcasting") {
  const OperatorKind kinds[] = {OperatorKind::Add, OperatorKind::Subtract, OperatorKind::Multiply};
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 240; ++seed) {
      KernelCase random(seed);
      const OperatorKind kind = kinds[seed % 3];
      Shape result(random.size(1, 6));
      for (size_t& extent : result) extent = random.size(1, 5);
      const auto part = [&](bool full) {
        Shape shape = result;
        for (size_t& extent : shape)
          if (!full && random.uniform(0, 2) == 0) extent = 1;
        if (!full)
          shape.erase(shape.begin(), shape.begin() + random.uniform(0, static_cast<int>(shape.size())));
        return shape;
      };
      const bool constant_first = seed % 4 == 0, constant_second = seed % 4 == 1;
      Value& a = random.input(part(seed % 5 != 0), type);
      Value& b = random.input(part(seed % 5 == 0), type);
      if (constant_first) random.constant(a);
      if (constant_second) random.constant(b);
      const auto element = [&](const Value& v, size_t i) {
        size_t index = 0, stride = 1;
        const Shape& s = v.tensor.shape;
        for (size_t axis = result.size(), k = s.size(); axis-- > 0 && k > 0; i /= result[axis]) {
          --k;
          if (s[k] != 1) index += i % result[axis] * stride;
          stride *= s[k];
        }
        return v.real[index];
      };
      std::vector<double> expected;
      for (size_t i = 0; i < piqi::element_count(result); ++i) {
        const double x = element(a, i), y = element(b, i);
        expected.push_back(kind == OperatorKind::Add        ? x + y
                           : kind == OperatorKind::Subtract ? x - y
                                                            : x * y);
      }
      random.output(result, type, expected);
      random.check(kind, with_random_clamp(random));
    }
  }
}

}  // namespace piqi_test
