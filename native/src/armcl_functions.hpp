// Our operators on the runtime functions of the Arm Compute Library: the same code for NEON and OpenCL, whose
// functions have the same names but for their first two letters.
#pragma once

#include <arm_compute/runtime/IFunction.h>
#include <arm_compute/runtime/IMemoryManager.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "armcl_support.hpp"

namespace piqi::armcl {

/// What a reader of the functions' errors needs: the library has no function for this.
class NoFunctionError : public UnsupportedError {
 public:
  using UnsupportedError::UnsupportedError;
};

/// The names that Functions uses, of the functions of one kind of processor: NE or CL.
#define PIQI_ARMCL_FUNCTIONS(prefix)                           \
  using Activation = acl::prefix##ActivationLayer;             \
  using Addition = acl::prefix##ArithmeticAddition;            \
  using Subtraction = acl::prefix##ArithmeticSubtraction;      \
  using Multiplication = acl::prefix##PixelWiseMultiplication; \
  using Concatenate = acl::prefix##ConcatenateLayer;           \
  using Convolution = acl::prefix##ConvolutionLayer;           \
  using Deconvolution = acl::prefix##DeconvolutionLayer;       \
  using Depthwise = acl::prefix##DepthwiseConvolutionLayer;    \
  using FullyConnected = acl::prefix##FullyConnectedLayer;     \
  using Mean = acl::prefix##ReduceMean;                        \
  using Normalization = acl::prefix##NormalizationLayer;       \
  using Pad = acl::prefix##PadLayer;                           \
  using Pooling = acl::prefix##PoolingLayer;                   \
  using Reshape = acl::prefix##ReshapeLayer;                   \
  using Scale = acl::prefix##Scale;                            \
  using Softmax = acl::prefix##SoftmaxLayer;                   \
  using Split = acl::prefix##Split;                            \
  using StridedSlice = acl::prefix##StridedSlice

/// A tensor of the library's, without memory yet.
template <typename Tensor>
std::shared_ptr<Tensor> make_tensor(const acl::TensorInfo& info) {
  auto tensor = std::make_shared<Tensor>();
  tensor->allocator()->init(info);
  return tensor;
}

/// The functions of one operator, and the tensors that are theirs alone. `Library` names the functions.
template <typename Library>
class Functions {
 public:
  using Tensor = typename Library::Tensor;
  using ITensor = typename Library::ITensor;

  /// `memory`: where functions get their working memory. `type`: F32 or F16.
  Functions(const OperatorView& view, acl::DataType type, std::shared_ptr<acl::IMemoryManager> memory)
      : view_(view), p_(view.parameters()), type_(type), memory_(std::move(memory)) {}

  /// The shape in which the operator takes input i or makes output i: another than the tensor's own where
  /// the library wants dimensions merged or kept.
  static Shape input_shape(const OperatorView& view, size_t i) {
    const Shape& shape = view.input(i).shape;
    if (view.op.kind == OperatorKind::FullyConnected) return matrix(shape, view.input(1).shape[1]);
    if (view.op.kind == OperatorKind::Softmax) return matrix(shape, shape.back());
    if (view.op.kind == OperatorKind::LocalResponseNormalization) return pixels(shape);
    return shape;
  }
  static Shape output_shape(const OperatorView& view, size_t i) {
    const Shape& shape = view.output(i).shape;
    switch (view.op.kind) {
      case OperatorKind::FullyConnected:
      case OperatorKind::Softmax:
        return matrix(shape, shape.back());
      case OperatorKind::LocalResponseNormalization:
        return pixels(shape);
      case OperatorKind::StridedSlice:
        return view.parameters().size;
      case OperatorKind::Mean: {
        Shape kept = view.input(0).shape;
        for (size_t axis : view.parameters().axes) kept[axis] = 1;
        return kept;
      }
      default:
        return shape;
    }
  }

  /// Configures the functions on these tensors (null: a constant), which may grow padding by it. Throws
  /// NoFunctionError.
  void configure(const std::vector<Tensor*>& inputs, const std::vector<Tensor*>& outputs) {
    if (view_.type() != DataType::Float32 || view_.output().type != DataType::Float32)
      missing("only float32 is computed");
    operands_ = inputs;
    outputs_ = outputs;
    dispatch();
  }

  /// Gives the constants their values and packs weights: after every tensor has its memory.
  void prepare() {
    for (const auto& tensor : temporaries_) tensor->allocator()->allocate();
    for (const auto& [tensor, values] : constants_) Library::fill(*tensor, values);
    for (const auto& function : functions_) function->prepare();
    Library::finish();
    for (const auto& [tensor, values] : constants_)
      if (!tensor->is_used()) tensor->allocator()->free();
  }

  void run() {
    for (const auto& function : functions_) function->run();
  }

 private:
  static Shape matrix(const Shape& shape, size_t columns) {
    return {element_count(shape) / columns, columns};
  }

  static Shape pixels(const Shape& shape) {
    return shape.size() == 4 ? shape : Shape{1, 1, element_count(shape) / shape.back(), shape.back()};
  }

  [[noreturn]] void missing(const std::string& why) const {
    throw NoFunctionError(view_.label() + ": the Arm Compute Library cannot run it on " + Library::name +
                          ": " + why);
  }
  void require(const acl::Status& status) const {
    if (!status) missing(status.error_description());
  }

  /// Configures a function if the library says that it can be.
  template <typename Function, typename... Arguments>
  void configure(std::unique_ptr<Function> function, const Arguments&... arguments) {
    require(Function::validate(info(arguments)...));
    function->configure(arguments...);
    functions_.push_back(std::move(function));
  }
  template <typename Function, typename... Arguments>
  void add(const Arguments&... arguments) {
    if constexpr (std::is_constructible_v<Function, std::shared_ptr<acl::IMemoryManager>>)
      configure(std::make_unique<Function>(memory_), arguments...);
    else
      configure(std::make_unique<Function>(), arguments...);
  }
  // validate() takes what describes a tensor where configure() takes the tensor.
  static acl::ITensorInfo* info(Tensor* tensor) { return tensor ? tensor->info() : nullptr; }
  template <typename T>
  static const T& info(const T& argument) {
    return argument;
  }

  /// A part of input i, as large as `shape`, from its beginning or `parts` times as far behind.
  Tensor* constant(size_t i, const Shape& shape, size_t parts = 0) {
    const auto* const values = static_cast<const float*>(view_.input(i).data.get());
    const auto tensor = make_tensor<Tensor>(info_of(shape, type_));
    constants_.emplace_back(tensor, values + parts * element_count(shape));
    return tensor.get();
  }
  Tensor* temporary(const Shape& shape) {
    temporaries_.push_back(make_tensor<Tensor>(info_of(shape, type_)));
    return temporaries_.back().get();
  }
  Tensor* operand(size_t i) { return operands_[i] ? operands_[i] : constant(i, view_.input(i).shape); }
  Tensor* bias() { return view_.has_input(2) ? constant(2, {element_count(view_.input(2).shape)}) : nullptr; }

  static size_t dimension(size_t axis, size_t rank) { return rank - 1 - axis; }
  /// The library knows no outermost dimensions of one.
  bool has_dimension(size_t dimension) const { return dimension < operands_[0]->info()->num_dimensions(); }
  acl::PadStrideInfo pad_and_stride(size_t right, size_t bottom) const {
    const auto u = [](size_t value) { return static_cast<unsigned>(value); };
    return {u(p_.stride_width),
            u(p_.stride_height),
            u(p_.pad_left),
            u(right),
            u(p_.pad_top),
            u(bottom),
            acl::DimensionRoundingType::FLOOR};
  }
  acl::PadStrideInfo pad_and_stride() const { return pad_and_stride(p_.pad_right, p_.pad_bottom); }

  void activate(Tensor* input, Tensor* output, const acl::ActivationLayerInfo& activation) {
    add<typename Library::Activation>(input, output, activation);
  }
  void clamp_in_place() {
    if (has_clamp(p_)) activate(outputs_[0], static_cast<Tensor*>(nullptr), clamp_of(p_));
  }

  void dispatch() {
    using Function = acl::ActivationLayerInfo::ActivationFunction;
    Tensor* const in = operands_[0];
    Tensor* const out = outputs_[0];
    switch (view_.op.kind) {
      case OperatorKind::Conv2d:
        return convolution();
      case OperatorKind::DepthwiseConv2d:
        return depthwise();
      case OperatorKind::TransposeConv2d:
        return transposed();
      case OperatorKind::FullyConnected:
        return fully_connected();
      case OperatorKind::Add:
        add<typename Library::Addition>(operand(0), operand(1), out, acl::ConvertPolicy::SATURATE);
        return clamp_in_place();
      case OperatorKind::Subtract:
        add<typename Library::Subtraction>(operand(0), operand(1), out, acl::ConvertPolicy::SATURATE);
        return clamp_in_place();
      case OperatorKind::Multiply:
        add<typename Library::Multiplication>(operand(0), operand(1), out, 1.0F, acl::ConvertPolicy::SATURATE,
                                              acl::RoundingPolicy::TO_ZERO);
        return clamp_in_place();
      case OperatorKind::Concat:
        return concatenate();
      case OperatorKind::Split:
        return split(in, outputs_, dimension(p_.axis, view_.input(0).shape.size()));
      case OperatorKind::MaxPool2d:
      case OperatorKind::AveragePool2d:
        return pool();
      case OperatorKind::Mean:
        return mean();
      case OperatorKind::Pad:
        return pad();
      case OperatorKind::Reshape:
        return add<typename Library::Reshape>(in, out);
      case OperatorKind::Softmax:
        return add<typename Library::Softmax>(in, out, p_.beta);
      case OperatorKind::Logistic:
        return activate(in, out, {Function::LOGISTIC});
      case OperatorKind::Tanh:
        return activate(in, out, {Function::TANH, 1, 1});
      case OperatorKind::Clamp:
        return activate(in, out,
                        has_clamp(p_) ? clamp_of(p_) : acl::ActivationLayerInfo(Function::LINEAR, 1));
      case OperatorKind::LeakyRelu:
        return activate(in, out, {Function::LEAKY_RELU, p_.alpha});
      case OperatorKind::HardSwish:
        return activate(in, out, {Function::HARD_SWISH});
      case OperatorKind::ResizeNearest:
      case OperatorKind::ResizeBilinear:
        return resize();
      case OperatorKind::StridedSlice:
        return slice();
      case OperatorKind::LocalResponseNormalization:
        return add<typename Library::Normalization>(
            in, out,
            acl::NormalizationLayerInfo(acl::NormType::CROSS_MAP, static_cast<uint32_t>(2 * p_.radius + 1),
                                        p_.alpha, p_.beta, p_.bias, false));
      default:
        missing("it has no such function");
    }
  }

  void convolution() {
    const Shape& w = view_.input(1).shape;
    if (p_.groups == 1) return convolution(operands_[0], constant(1, w), bias(), outputs_[0]);
    // The library has no groups: each is a convolution of a part of the channels.
    const size_t filters = w[0] / p_.groups;
    std::vector<Tensor*> inputs, outputs;
    for (size_t group = 0; group < p_.groups; ++group) {
      inputs.push_back(temporary(with_channels(view_.input(0).shape, w[3])));
      outputs.push_back(temporary(with_channels(view_.output().shape, filters)));
    }
    split(operands_[0], inputs, 0);
    for (size_t group = 0; group < p_.groups; ++group) {
      Tensor* const weights = constant(1, {filters, w[1], w[2], w[3]}, group);
      Tensor* const bias = view_.has_input(2) ? constant(2, {filters}, group) : nullptr;
      convolution(inputs[group], weights, bias, outputs[group]);
    }
    concatenate(outputs, outputs_[0], 0);
  }
  void convolution(Tensor* in, Tensor* weights, Tensor* bias, Tensor* out) {
    const acl::Size2D dilation(p_.dilation_width, p_.dilation_height);
    add<typename Library::Convolution>(in, weights, bias, out, pad_and_stride(), acl::WeightsInfo(), dilation,
                                       clamp_of(p_));
  }
  static Shape with_channels(Shape shape, size_t channels) {
    shape.back() = channels;
    return shape;
  }

  void depthwise() {
    const Shape &x = view_.input(0).shape, &w = view_.input(1).shape;
    const auto multiplier = static_cast<unsigned>(w[3] / x[3]);
    const acl::Size2D dilation(p_.dilation_width, p_.dilation_height);
    Tensor* const weights = constant(1, w);
    add<typename Library::Depthwise>(operands_[0], weights, bias(), outputs_[0], pad_and_stride(), multiplier,
                                     clamp_of(p_), dilation);
  }

  void transposed() {
    const Shape &x = view_.input(0).shape, &w = view_.input(1).shape, &y = view_.output().shape;
    // What the forward convolution leaves at the bottom and right that no window reaches cannot be said.
    const size_t height = p_.stride_height * (x[1] - 1) + w[1], width = p_.stride_width * (x[2] - 1) + w[2];
    if (height < y[1] + p_.pad_top || width < y[2] + p_.pad_left) missing("a rest at its edges");
    add<typename Library::Deconvolution>(
        operands_[0], constant(1, w), bias(), outputs_[0],
        pad_and_stride(width - y[2] - p_.pad_left, height - y[1] - p_.pad_top));
    clamp_in_place();
  }

  void fully_connected() {
    acl::FullyConnectedLayerInfo info;
    info.weights_trained_layout = acl::DataLayout::NHWC;
    add<typename Library::FullyConnected>(operands_[0], constant(1, view_.input(1).shape), bias(),
                                          outputs_[0], info);
    clamp_in_place();
  }

  void concatenate(const std::vector<Tensor*>& inputs, Tensor* out, size_t axis) {
    if (inputs.size() == 1) return add<typename Library::Reshape>(inputs[0], out);
    std::vector<const ITensor*> tensors(inputs.begin(), inputs.end());
    std::vector<const acl::ITensorInfo*> infos;
    for (Tensor* tensor : inputs) infos.push_back(tensor->info());
    auto function = std::make_unique<typename Library::Concatenate>();
    require(Library::Concatenate::validate(infos, out->info(), axis));
    function->configure(tensors, out, axis);
    functions_.push_back(std::move(function));
  }
  void concatenate() {
    std::vector<Tensor*> inputs;
    for (size_t i = 0; i < operands_.size(); ++i) inputs.push_back(operand(i));
    concatenate(inputs, outputs_[0], dimension(p_.axis, view_.output().shape.size()));
  }

  void split(Tensor* in, const std::vector<Tensor*>& outputs, size_t axis) {
    if (outputs.size() == 1) return add<typename Library::Reshape>(in, outputs[0]);
    std::vector<ITensor*> tensors(outputs.begin(), outputs.end());
    std::vector<acl::ITensorInfo*> infos;
    for (Tensor* tensor : outputs) infos.push_back(tensor->info());
    auto function = std::make_unique<typename Library::Split>();
    require(Library::Split::validate(in->info(), infos, static_cast<unsigned>(axis)));
    function->configure(in, tensors, static_cast<unsigned>(axis));
    functions_.push_back(std::move(function));
  }

  void pool() {
    const auto type =
        view_.op.kind == OperatorKind::MaxPool2d ? acl::PoolingType::MAX : acl::PoolingType::AVG;
    const acl::PoolingLayerInfo info(type, acl::Size2D(p_.kernel_width, p_.kernel_height),
                                     acl::DataLayout::NHWC, pad_and_stride(), true);
    add<typename Library::Pooling>(operands_[0], outputs_[0], info);
    clamp_in_place();
  }

  void mean() {
    const size_t rank = view_.input(0).shape.size();
    acl::Coordinates axes;
    size_t count = 0;
    for (size_t axis : p_.axes)
      if (has_dimension(dimension(axis, rank))) axes.set(count++, static_cast<int>(dimension(axis, rank)));
    if (count == 0) return add<typename Library::Reshape>(operands_[0], outputs_[0]);
    add<typename Library::Mean>(operands_[0], axes, true, outputs_[0]);
  }

  void pad() {
    acl::PaddingList padding;
    for (size_t axis = p_.pad_before.size(); axis-- > 0;)
      padding.emplace_back(p_.pad_before[axis], p_.pad_after[axis]);
    while (!has_dimension(padding.size() - 1) && padding.back() == acl::PaddingInfo(0, 0)) padding.pop_back();
    add<typename Library::Pad>(operands_[0], outputs_[0], padding, acl::PixelValue(p_.pad_value, type_));
  }

  void resize() {
    const bool bilinear = view_.op.kind == OperatorKind::ResizeBilinear;
    // The nearest pixel never lies outside; a neighbour may.
    const acl::ScaleKernelInfo info(
        bilinear ? acl::InterpolationPolicy::BILINEAR : acl::InterpolationPolicy::NEAREST_NEIGHBOR,
        bilinear ? acl::BorderMode::REPLICATE : acl::BorderMode::CONSTANT, acl::PixelValue(),
        p_.half_pixel_centers ? acl::SamplingPolicy::CENTER : acl::SamplingPolicy::TOP_LEFT, bilinear,
        p_.align_corners);
    add<typename Library::Scale>(operands_[0], outputs_[0], info);
  }

  void slice() {
    const size_t rank = p_.begin.size();
    acl::Coordinates begin, end;
    acl::BiStrides strides;
    for (size_t axis = rank; axis-- > 0;) {
      if (!has_dimension(dimension(axis, rank))) continue;
      if (p_.strides[axis] < 0) missing("a slice that runs backwards");
      const size_t to = p_.begin[axis] + (p_.size[axis] - 1) * static_cast<size_t>(p_.strides[axis]) + 1;
      begin.set(dimension(axis, rank), static_cast<int>(p_.begin[axis]));
      end.set(dimension(axis, rank), static_cast<int>(to));
      strides.set(dimension(axis, rank), static_cast<int>(p_.strides[axis]));
    }
    add<typename Library::StridedSlice>(operands_[0], outputs_[0], begin, end, strides);
  }

  const OperatorView view_;
  const OperatorParameters& p_;
  const acl::DataType type_;
  const std::shared_ptr<acl::IMemoryManager> memory_;
  std::vector<Tensor*> operands_, outputs_;
  std::vector<std::pair<std::shared_ptr<Tensor>, const float*>> constants_;
  std::vector<std::shared_ptr<Tensor>> temporaries_;
  std::vector<std::unique_ptr<acl::IFunction>> functions_;
};

}  // namespace piqi::armcl
