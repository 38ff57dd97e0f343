#include "conversion.hpp"

namespace piqi {
namespace {

Tensor tensor_of(const char* name, const Shape& shape, const Format& format) {
  Tensor tensor;
  tensor.name = name;
  tensor.shape = shape;
  tensor.type = format.type;
  tensor.quantization = format.quantization;
  return tensor;
}

}  // namespace

std::shared_ptr<Kernel> make_conversion(const std::string& name, const Shape& shape, const Format& from,
                                        const Format& to) {
  Graph graph("conversion of '" + name + "'");
  const TensorId source = graph.add_tensor(tensor_of("from", shape, from));
  const TensorId target = graph.add_tensor(tensor_of("to", shape, to));
  Operator op;
  op.name = name;
  op.kind = to.type == DataType::Float32 ? OperatorKind::Dequantize : OperatorKind::Quantize;
  op.inputs = {source};
  op.outputs = {target};
  graph.add_operator(op);
  graph.add_input(source);
  graph.add_output(target);
  graph.finish();
  return make_kernel(graph, graph.operators()[0]);
}

}  // namespace piqi
