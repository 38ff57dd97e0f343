// Kernels that move elements: concat, split, reshape, slice, pad, resize.
#include "kernel_case.hpp"

namespace piqi_test {
namespace {

constexpr DataType copied_types[] = {DataType::Float32, DataType::Int8, DataType::UInt8, DataType::Int32};

Shape random_shape(KernelCase& random) {
  Shape shape(random.size(1, 5));
  for (size_t& extent : shape) extent = random.size(1, 7);
  return shape;
}

/// Row-major index of element `i` of `inner`, which lies at `begin` in every dimension of `outer` with
/// `step`.
size_t index_in(size_t i, const Shape& inner, const Shape& outer, const std::vector<size_t>& begin,
                const std::vector<int64_t>& step) {
  size_t index = 0, stride = 1;
  for (size_t axis = inner.size(); axis-- > 0; i /= inner[axis]) {
    const int64_t position =
        static_cast<int64_t>(begin[axis]) + static_cast<int64_t>(i % inner[axis]) * step[axis];
    index += static_cast<size_t>(position) * stride;
    stride *= outer[axis];
  }
  return index;
}

/// Same quantisation as the input for even seeds (then the copy is exact), another one for odd ones.
void add_output(KernelCase& random, const Value& x, const Shape& shape, uint32_t seed,
                std::vector<double> expected) {
  const std::vector<float>& scales = x.tensor.quantization.scales;
  if (seed % 2 == 0 && !scales.empty()) {
    random.output_like(shape, x.tensor.type, scales[0], x.tensor.quantization.zero_point,
                       std::move(expected));
  } else {
    random.output(shape, x.tensor.type, std::move(expected));
  }
}

}  // namespace

TEST_CASE("concat, each input with a quantisation of its own, one a constant") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 60; ++seed) {
      KernelCase random(seed);
      Shape shape = random_shape(random);
      OperatorParameters p;
      p.axis = random.size(0, static_cast<int>(shape.size()) - 1);
      std::vector<Value*> parts;
      size_t total = 0;
      for (size_t i = 0, count = random.size(1, 4); i < count; ++i) {
        shape[p.axis] = random.size(1, 6);
        total += shape[p.axis];
        parts.push_back(&random.input(shape, type));
        if (i == 1 && seed % 3 == 0) random.constant(*parts.back());
      }
      shape[p.axis] = total;
      std::vector<double> expected(piqi::element_count(shape));
      std::vector<size_t> begin(shape.size());
      for (const Value* part : parts) {
        const Shape& s = part->tensor.shape;
        for (size_t i = 0; i < part->real.size(); ++i)
          expected[index_in(i, s, shape, begin, std::vector<int64_t>(s.size(), 1))] = part->real[i];
        begin[p.axis] += s[p.axis];
      }
      random.output(shape, type, expected);
      random.check(OperatorKind::Concat, p, 0, 0);
    }
  }
}

TEST_CASE("split") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 60; ++seed) {
      KernelCase random(seed);
      Shape shape = random_shape(random);
      OperatorParameters p;
      p.axis = random.size(0, static_cast<int>(shape.size()) - 1);
      std::vector<size_t> sizes(random.size(1, 4));
      shape[p.axis] = 0;
      for (size_t& size : sizes) shape[p.axis] += size = random.size(1, 6);
      Value& x = random.input(shape, type);
      std::vector<size_t> begin(shape.size());
      for (size_t size : sizes) {
        Shape part = shape;
        part[p.axis] = size;
        std::vector<double> expected;
        for (size_t i = 0; i < piqi::element_count(part); ++i)
          expected.push_back(x.real[index_in(i, part, shape, begin, std::vector<int64_t>(part.size(), 1))]);
        add_output(random, x, part, seed, expected);
        begin[p.axis] += size;
      }
      random.check(OperatorKind::Split, p, 0, 0);
    }
  }
}

TEST_CASE("reshape, small and larger than a tile") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 6; ++seed) {
      KernelCase random(seed);
      const size_t height = seed < 4 ? random.size(1, 9) : 300;
      Value& x = random.input({1, height, 7, 90}, type);
      add_output(random, x, {height * 7, 90}, seed, x.real);
      random.check(OperatorKind::Reshape, {}, 0, 0);
    }
  }
}

TEST_CASE("strided slice, backwards too") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 100; ++seed) {
      KernelCase random(seed);
      const Shape shape = random_shape(random);
      OperatorParameters p;
      for (size_t extent : shape) {
        const int last = static_cast<int>(extent) - 1, begin = random.uniform(0, last);
        int stride = random.uniform(1, 3);
        if (random.uniform(0, 2) == 0) stride = -stride;
        const int room = stride > 0 ? (last - begin) / stride : begin / -stride;
        p.begin.push_back(static_cast<size_t>(begin));
        p.size.push_back(random.size(0, room) + 1);
        p.strides.push_back(stride);
        if (random.uniform(0, 2) == 0) p.begin.back() = 0, p.size.back() = extent, p.strides.back() = 1;
      }
      Value& x = random.input(shape, type);
      std::vector<double> expected;
      for (size_t i = 0; i < piqi::element_count(p.size); ++i)
        expected.push_back(x.real[index_in(i, p.size, shape, p.begin, p.strides)]);
      add_output(random, x, p.size, seed, expected);
      random.check(OperatorKind::StridedSlice, p, 0, 0);
    }
  }
}

TEST_CASE("pad") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 100; ++seed) {
      KernelCase random(seed);
      const Shape shape = random_shape(random);
      OperatorParameters p;
      p.pad_value = type == DataType::Int32 ? 3.0f : 0.25f;
      Shape padded = shape;
      for (size_t& extent : padded) {
        p.pad_before.push_back(random.uniform(0, 1) ? random.size(0, 3) : 0);
        p.pad_after.push_back(random.uniform(0, 1) ? random.size(0, 3) : 0);
        extent += p.pad_before.back() + p.pad_after.back();
      }
      Value& x = random.input(shape, type);
      std::vector<double> expected(piqi::element_count(padded), static_cast<double>(p.pad_value));
      for (size_t i = 0; i < x.real.size(); ++i)
        expected[index_in(i, shape, padded, p.pad_before, std::vector<int64_t>(shape.size(), 1))] = x.real[i];
      add_output(random, x, padded, seed, expected);
      random.check(OperatorKind::Pad, p, 0, 0);
    }
  }
}

TEST_CASE("resize to the nearest neighbour") {
  for (DataType type : copied_types) {
    for (uint32_t seed = 0; seed < 120; ++seed) {
      KernelCase random(seed);
      OperatorParameters p;
      p.align_corners = seed % 4 / 2, p.half_pixel_centers = seed % 8 / 4;
      Value& x =
          random.input({random.size(1, 2), random.size(1, 9), random.size(1, 9), random.size(1, 5)}, type);
      const Shape& in = x.tensor.shape;
      const Shape out{in[0], random.size(1, 20), random.size(1, 20), in[3]};
      const auto nearest = [&](size_t i, size_t from, size_t to) {
        // Exact rational arithmetic: the answer is unambiguous.
        const bool align = p.align_corners && to > 1;
        const size_t numerator = (2 * i + p.half_pixel_centers) * (align ? from - 1 : from);
        const size_t denominator = 2 * (align ? to - 1 : to);
        const size_t index =
            (p.align_corners ? 2 * numerator + denominator : 2 * numerator) / (2 * denominator);
        return std::min(index, from - 1);
      };
      std::vector<double> expected;
      for (size_t n = 0; n < out[0]; ++n)
        for (size_t h = 0; h < out[1]; ++h)
          for (size_t w = 0; w < out[2]; ++w)
            for (size_t c = 0; c < out[3]; ++c)
              expected.push_back(at(x, n, nearest(h, in[1], out[1]), nearest(w, in[2], out[2]), c));
      add_output(random, x, out, seed, expected);
      random.check(OperatorKind::ResizeNearest, p, 0, 0);
    }
  }
}

TEST_CASE("bilinear resize") {
  for (DataType type : all_types) {
    for (uint32_t seed = 0; seed < 90; ++seed) {
      KernelCase random(seed);
      OperatorParameters p;
      p.align_corners = seed % 3 == 1, p.half_pixel_centers = seed % 3 == 2;
      Value& x =
          random.input({random.size(1, 2), random.size(1, 9), random.size(1, 9), random.size(1, 20)}, type);
      const Shape& in = x.tensor.shape;
      const Shape out{in[0], random.size(1, 20), random.size(1, 20), in[3]};
      const auto position = [&](size_t i, size_t from, size_t to) {
        const double scale = p.align_corners && to > 1
                                 ? static_cast<double>(from - 1) / static_cast<double>(to - 1)
                                 : static_cast<double>(from) / static_cast<double>(to);
        const double x0 = p.half_pixel_centers ? (static_cast<double>(i) + 0.5) * scale - 0.5
                                               : static_cast<double>(i) * scale;
        return std::min(std::max(x0, 0.0), static_cast<double>(from - 1));
      };
      std::vector<double> expected;
      for (size_t n = 0; n < out[0]; ++n)
        for (size_t h = 0; h < out[1]; ++h)
          for (size_t w = 0; w < out[2]; ++w)
            for (size_t c = 0; c < out[3]; ++c) {
              const double y = position(h, in[1], out[1]), z = position(w, in[2], out[2]);
              const auto top = static_cast<size_t>(y), left = static_cast<size_t>(z);
              const size_t bottom = std::min(top + 1, in[1] - 1), right = std::min(left + 1, in[2] - 1);
              const double v = y - static_cast<double>(top), u = z - static_cast<double>(left);
              expected.push_back((1 - v) * ((1 - u) * at(x, n, top, left, c) + u * at(x, n, top, right, c)) +
                                 v * ((1 - u) * at(x, n, bottom, left, c) + u * at(x, n, bottom, right, c)));
            }
      add_output(random, x, out, seed, expected);
      random.check(OperatorKind::ResizeBilinear, p, 1, 1e-5);
    }
  }
}

}  // namespace piqi_test
