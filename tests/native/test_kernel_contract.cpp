// What every kernel promises: it works on any buffers and pools, allocates nothing after its first setup(),
// reads at most extra_bytes behind a buffer, and gives the same bits with any number of threads.
#include "allocation_counter.hpp"
#include "kernel_case.hpp"

namespace piqi_test {
namespace {

struct Contract {
  OperatorKind kind;
  OperatorParameters parameters;
  KernelCase tensors;
};

OperatorParameters window(size_t kernel, size_t stride) {
  OperatorParameters p;
  p.kernel_height = p.kernel_width = kernel;
  p.stride_height = p.stride_width = stride;
  p.pad_top = p.pad_left = p.pad_bottom = p.pad_right = kernel / 2;
  return p;
}

/// An operator of every kind that `type` can have, large enough to be split among threads.
std::vector<Contract> contracts(DataType type) {
  std::vector<Contract> all;
  const Shape image{2, 32, 32, 64}, half{2, 16, 16, 64};
  const auto add = [&](OperatorKind kind, const OperatorParameters& p, const auto& build) {
    all.push_back({kind, p, KernelCase(static_cast<uint32_t>(kind) + 1)});
    build(all.back().tensors);
  };
  const auto convolution = [&](OperatorKind kind, size_t stride, const Shape& weights, size_t axis,
                               const Shape& in, const Shape& out) {
    add(kind, window(weights[1], stride), [&](KernelCase& c) {
      Value& x = c.input(in, type);
      Value& w = c.weights(weights, type, axis, true);
      c.bias(weights[axis], x, w);
      c.output(out, type);
    });
  };
  convolution(OperatorKind::Conv2d, 1, {48, 1, 1, 64}, 0, image, {2, 32, 32, 48});
  convolution(OperatorKind::Conv2d, 2, {48, 3, 3, 64}, 0, image, {2, 16, 16, 48});
  convolution(OperatorKind::DepthwiseConv2d, 1, {1, 3, 3, 64}, 3, image, image);
  convolution(OperatorKind::DepthwiseConv2d, 2, {1, 3, 3, 128}, 3, image, {2, 16, 16, 128});
  convolution(OperatorKind::TransposeConv2d, 2, {16, 3, 3, 64}, 0, half, {2, 32, 32, 16});
  add(OperatorKind::FullyConnected, {}, [&](KernelCase& c) {
    Value& x = c.input({4, 1024}, type);
    Value& w = c.weights({96, 1024}, type, 0, true);
    c.bias(96, x, w);
    c.output({4, 96}, type);
  });
  for (OperatorKind kind : {OperatorKind::Add, OperatorKind::Subtract, OperatorKind::Multiply}) {
    add(kind, {}, [&](KernelCase& c) {
      c.input(image, type);
      c.constant(c.input({64}, type));
      c.output(image, type);
    });
  }
  OperatorParameters last_axis;
  last_axis.axis = 3;
  add(OperatorKind::Concat, last_axis, [&](KernelCase& c) {
    c.input(image, type);
    c.input({2, 32, 32, 32}, type);
    c.output({2, 32, 32, 96}, type);
  });
  add(OperatorKind::Split, last_axis, [&](KernelCase& c) {
    c.input(image, type);
    c.output({2, 32, 32, 16}, type);
    c.output({2, 32, 32, 48}, type);
  });
  const auto unary = [&](OperatorKind kind, const OperatorParameters& p, const Shape& out) {
    add(kind, p, [&](KernelCase& c) {
      c.input(image, type);
      c.output(out, type);
    });
  };
  unary(OperatorKind::MaxPool2d, window(3, 2), half);
  unary(OperatorKind::AveragePool2d, window(3, 2), half);
  OperatorParameters p;
  p.axes = {1, 2};
  unary(OperatorKind::Mean, p, {2, 1, 1, 64});
  p.axes = {1, 3};
  unary(OperatorKind::Mean, p, {2, 1, 32, 1});
  p = {};
  p.pad_before = {0, 1, 2, 0}, p.pad_after = {0, 0, 1, 3};
  unary(OperatorKind::Pad, p, {2, 33, 35, 67});
  unary(OperatorKind::Reshape, {}, {2, 32 * 32 * 64});
  unary(OperatorKind::Softmax, {}, image);
  p = {};
  p.clamp_min = 0;
  unary(OperatorKind::Clamp, p, image);
  p = {};
  p.alpha = 0.1f, p.radius = 2, p.bias = 1;
  for (OperatorKind kind : {OperatorKind::Logistic, OperatorKind::Tanh, OperatorKind::LeakyRelu,
                            OperatorKind::HardSwish, OperatorKind::LocalResponseNormalization})
    unary(kind, p, image);
  unary(OperatorKind::ResizeNearest, {}, {2, 64, 48, 64});
  unary(OperatorKind::ResizeBilinear, {}, {2, 64, 48, 64});
  p = {};
  p.begin = {0, 3, 31, 0}, p.size = {2, 14, 32, 64}, p.strides = {1, 2, -1, 1};
  unary(OperatorKind::StridedSlice, p, {2, 14, 32, 64});
  if (type == DataType::Float32) {
    for (DataType to : {DataType::Int8, DataType::UInt8}) {
      add(OperatorKind::Quantize, {}, [&](KernelCase& c) {
        c.input(image, type);
        c.output(image, to);
      });
    }
  } else {
    unary(OperatorKind::Quantize, {}, image);
    add(OperatorKind::Dequantize, {}, [&](KernelCase& c) {
      c.input(image, type);
      c.output(image, DataType::Float32);
    });
  }
  return all;
}

struct Buffers {
  std::vector<std::unique_ptr<GuardedBuffer>> owned;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;

  explicit Buffers(const KernelCase& tensors) {
    for (const auto& value : tensors.inputs()) {
      if (value->tensor.is_constant()) continue;
      owned.push_back(std::make_unique<GuardedBuffer>(value->buffer));
      inputs.push_back(owned.back()->data());
    }
    for (const auto& value : tensors.outputs()) {
      owned.push_back(std::make_unique<GuardedBuffer>(value->buffer));
      outputs.push_back(owned.back()->data());
    }
  }
};

using Pool = std::unique_ptr<pthreadpool, decltype(&pthreadpool_destroy)>;

/// Sends the workers to sleep: those of a pool at rest spin for a while, and there may be few cores here.
void rest(pthreadpool_t pool) {
  if (pool == nullptr) return;
  pthreadpool_parallelize_1d(
      pool, [](void*, size_t) {}, nullptr, pthreadpool_get_threads_count(pool),
      PTHREADPOOL_FLAG_YIELD_WORKERS);
}

Pool make_pool(size_t threads) {
  return Pool(pthreadpool_create(threads), &pthreadpool_destroy);
}

}  // namespace

TEST_CASE("other buffers and pools: the same bits, no allocation, no read beyond extra_bytes") {
  const Pool two = make_pool(2), three = make_pool(3);
  for (DataType type : all_types) {
    for (Contract& contract : contracts(type)) {
      INFO(piqi::to_string(contract.kind) << " " << contract.tensors.describe());
      const auto kernel = contract.tensors.make(contract.kind, contract.parameters);
      const Buffers first(contract.tensors), second(contract.tensors);
      kernel->setup(first.inputs.data(), first.outputs.data(), nullptr);
      kernel->run(nullptr);

      struct Round {
        const Buffers* buffers;
        pthreadpool_t pool;
      };
      const Round rounds[] = {{&second, two.get()}, {&first, three.get()}, {&second, nullptr}};
      for (const Round& round : rounds) {
        std::vector<std::vector<uint8_t>> expected;
        for (size_t i = 0; i < first.outputs.size(); ++i) {
          const auto* const bytes = static_cast<const uint8_t*>(first.outputs[i]);
          const size_t size = contract.tensors.outputs()[i]->buffer.size();
          expected.emplace_back(bytes, bytes + size);
          std::memset(round.buffers->outputs[i], 0xAA, size);
        }
        const size_t before = allocation_count();
        kernel->setup(round.buffers->inputs.data(), round.buffers->outputs.data(), round.pool);
        kernel->run(round.pool);
        const size_t allocations = allocation_count() - before;
        rest(round.pool);
        CHECK(allocations == 0);
        for (size_t i = 0; i < expected.size(); ++i) {
          const bool same =
              std::memcmp(round.buffers->outputs[i], expected[i].data(), expected[i].size()) == 0;
          CHECK_MESSAGE(same, "output " << i << " differs");
          std::memcpy(first.outputs[i], expected[i].data(), expected[i].size());
        }
      }
    }
  }
}

TEST_CASE("the allocation counter sees operator new and XNNPACK's allocations") {
  if (!counts_allocations()) return;
  size_t before = allocation_count();
  char* volatile memory = new char[1000];  // volatile: or the compiler leaves it out
  CHECK(allocation_count() == before + 1);
  delete[] memory;

  KernelCase tensors(1);
  tensors.input({1, 8, 8, 4}, DataType::Float32);
  tensors.weights({4, 3, 3, 4}, DataType::Float32, 0, false);
  tensors.output({1, 6, 6, 4}, DataType::Float32);
  const auto kernel = tensors.make(OperatorKind::Conv2d);
  const auto inputs = tensors.input_pointers();
  const auto outputs = tensors.output_pointers();
  before = allocation_count();
  kernel->setup(inputs.data(), outputs.data(), nullptr);
  CHECK(allocation_count() > before);  // the first one makes the table of input rows
}

TEST_CASE("a constant is held inside: its memory may change or go") {
  KernelCase tensors(3);
  Value& a = tensors.input({2, 3}, DataType::Float32);
  Value& b = tensors.constant(tensors.input({3}, DataType::Float32));
  std::vector<double> expected;
  for (size_t i = 0; i < 6; ++i) expected.push_back(a.real[i] + b.real[i % 3]);
  tensors.output({2, 3}, DataType::Float32, expected);
  const auto kernel = tensors.make(OperatorKind::Add);
  std::memset(b.buffer.data(), 0, b.buffer.size());
  kernel->setup(tensors.input_pointers().data(), tensors.output_pointers().data(), nullptr);
  kernel->run(nullptr);
  tensors.compare({}, 0);
}

TEST_CASE("weights are packed once and counted") {
  for (DataType type : all_types) {
    KernelCase tensors(4);
    tensors.input({1, 8, 8, 64}, type);
    const Value& w = tensors.weights({128, 3, 3, 64}, type, 0, true);
    tensors.output({1, 6, 6, 128}, type);
    const auto kernel = tensors.make(OperatorKind::Conv2d);
    CHECK(kernel->memory_bytes() >= w.buffer.size());
    CHECK(kernel->memory_bytes() < w.buffer.size() * 5 / 4);
    const size_t prepared = kernel->memory_bytes();
    for (int round = 0; round < 2; ++round) {
      kernel->setup(tensors.input_pointers().data(), tensors.output_pointers().data(), nullptr);
      // XNNPACK's table of input rows: a pointer for each tap of each output pixel, made once.
      CHECK(kernel->memory_bytes() <= prepared + 48 * 9 * sizeof(void*));
    }
  }
}

}  // namespace piqi_test
