#include "piqi/kernel.hpp"

#include <cmath>

#include "kernel_support.hpp"

namespace piqi {
namespace {

bool takes_clamp(OperatorKind kind) {
  switch (kind) {
    case OperatorKind::Conv2d:
    case OperatorKind::DepthwiseConv2d:
    case OperatorKind::TransposeConv2d:
    case OperatorKind::FullyConnected:
    case OperatorKind::Add:
    case OperatorKind::Subtract:
    case OperatorKind::Multiply:
    case OperatorKind::MaxPool2d:
    case OperatorKind::AveragePool2d:
    case OperatorKind::Clamp:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::shared_ptr<Kernel> make_kernel(const Graph& graph, const Operator& op) {
  const OperatorView view{graph, op};
  const OperatorParameters& p = op.parameters;
  // The kernels trust shapes; only a finished graph has checked them.
  if (!graph.finished()) throw GraphError(view.label() + ": graph '" + graph.name() + "' is not finished");
  if (!takes_clamp(op.kind) && !(std::isinf(p.clamp_min) && std::isinf(p.clamp_max))) {
    view.unsupported("cannot fuse a clamp");
  }
  switch (op.kind) {
    case OperatorKind::Conv2d:
    case OperatorKind::DepthwiseConv2d:
      return make_convolution(view);
    case OperatorKind::TransposeConv2d:
      return make_transpose_convolution(view);
    case OperatorKind::FullyConnected:
      return make_fully_connected(view);
    case OperatorKind::Add:
    case OperatorKind::Subtract:
    case OperatorKind::Multiply:
      return make_binary(view);
    case OperatorKind::Concat:
    case OperatorKind::Split:
    case OperatorKind::Reshape:
      return make_block_copy(view);
    case OperatorKind::Pad:
    case OperatorKind::StridedSlice:
    case OperatorKind::ResizeNearest:
      return make_gather(view);
    case OperatorKind::MaxPool2d:
    case OperatorKind::AveragePool2d:
      return make_pool(view);
    case OperatorKind::Mean:
      return make_mean(view);
    case OperatorKind::Softmax:
      return make_softmax(view);
    case OperatorKind::Logistic:
    case OperatorKind::Tanh:
    case OperatorKind::Clamp:
    case OperatorKind::LeakyRelu:
    case OperatorKind::HardSwish:
      return make_unary(view);
    case OperatorKind::ResizeBilinear:
      return make_resize_bilinear(view);
    case OperatorKind::Quantize:
    case OperatorKind::Dequantize:
      return make_convert(view);
    case OperatorKind::LocalResponseNormalization:
      return make_local_response_normalization(view);
  }
  view.unsupported("unknown operator");
}

}  // namespace piqi
