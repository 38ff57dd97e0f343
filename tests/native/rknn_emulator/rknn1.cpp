// librknn_api.so over the emulated NPU. As on the chip, tensors are NCHW and dimensions are listed in
// reverse.
#include <cstring>

#include "emulator.hpp"
#include "rknn1_api.hpp"

namespace {

using namespace emulator;
using namespace piqi::rknn1;
using piqi::DataType;
using piqi::element_count;

int32_t type_of(const piqi::Tensor& tensor) {
  return tensor.type == DataType::Int8    ? type_int8
         : tensor.type == DataType::UInt8 ? type_uint8
                                          : type_float32;
}

void describe(const piqi::Tensor& tensor, const std::string& name, Attribute& attribute) {
  const uint32_t index = attribute.index;
  attribute = {};
  attribute.index = index;
  std::strncpy(attribute.name, name.c_str(), sizeof attribute.name - 1);
  piqi::Shape shape = tensor.shape;
  if (shape.size() == 4) shape = {shape[0], shape[3], shape[1], shape[2]};
  attribute.n_dims = static_cast<uint32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i)
    attribute.dims[shape.size() - 1 - i] = static_cast<uint32_t>(shape[i]);
  attribute.elements = static_cast<uint32_t>(element_count(shape));
  attribute.size = static_cast<uint32_t>(tensor.size_bytes());
  attribute.order = order_nchw;
  attribute.type = type_of(tensor);
  if (!tensor.quantization.scales.empty()) {
    attribute.quantizing = quantizing_affine;
    attribute.scale = tensor.quantization.scales[0];
    attribute.zero_point = static_cast<uint32_t>(tensor.quantization.zero_point);
  }
}

}  // namespace

PIQI_EXPORT int rknn_init(Handle* handle, void* model, uint32_t size, uint32_t) {
  if (const int code = fault("rknn_init")) return code;
  return load(model, size, {"rk1808", "rk3399pro"}, *handle);
}

PIQI_EXPORT int rknn_destroy(Handle handle) {
  if (const int code = fault("rknn_destroy")) return code;
  return drop(handle) ? 0 : context_invalid;
}

PIQI_EXPORT int rknn_query(Handle handle, int32_t query, void* info, uint32_t size) {
  if (const int code = fault("rknn_query")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  switch (query) {
    case query_in_out_num:
      if (size != sizeof(InOutNum)) return param_invalid;
      *static_cast<InOutNum*>(info) = {static_cast<uint32_t>(context->input_count()),
                                       static_cast<uint32_t>(context->output_count())};
      return 0;
    case query_input:
    case query_output: {
      auto* attribute = static_cast<Attribute*>(info);
      const bool input = query == query_input;
      if (size != sizeof *attribute) return param_invalid;
      if (attribute->index >= (input ? context->input_count() : context->output_count()))
        return param_invalid;
      const auto& network = context->model()->network;
      describe(input ? context->input(attribute->index) : context->output(attribute->index),
               (input ? network.inputs : network.outputs)[attribute->index], *attribute);
      return 0;
    }
    case query_perf_run:
      if (size != sizeof(PerfRun)) return param_invalid;
      static_cast<PerfRun*>(info)->duration_us = context->run_us;
      return 0;
    case query_sdk_version:
      if (size != sizeof(SdkVersion)) return param_invalid;
      *static_cast<SdkVersion*>(info) = {"1.7.5 (emulated)", "1.7.5"};
      return 0;
    default:
      return param_invalid;
  }
}

PIQI_EXPORT int rknn_inputs_set(Handle handle, uint32_t count, Input* inputs) {
  if (const int code = fault("rknn_inputs_set")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  if (const int code = context->begin(pacer::Kind::Bind)) return code;
  for (uint32_t i = 0; i < count; ++i) {
    const Input& input = inputs[i];
    if (input.index >= context->input_count()) return -8;
    const piqi::Tensor& tensor = context->input(input.index);
    const int32_t type = input.pass_through ? type_of(tensor) : input.type;
    const DataType given = type == type_int8    ? DataType::Int8
                           : type == type_uint8 ? DataType::UInt8
                                                : DataType::Float32;
    if (input.size != element_count(tensor.shape) * size_of(given)) return -8;
    if (input.pass_through) ++counters[PassedThrough];
    store(tensor, context->input_data(input.index), input.data, given,
          input.pass_through || input.order == order_nchw ? Axes::Nchw : Axes::Nhwc);
  }
  return context->end();
}

PIQI_EXPORT int rknn_run(Handle handle, RunExtension*) {
  const auto context = find(handle);
  if (!context) return context_invalid;
  if (const int code = fault("rknn_run")) return code;
  return context->run();
}

PIQI_EXPORT int rknn_outputs_get(Handle handle, uint32_t count, Output* outputs, OutputExtension*) {
  if (const int code = fault("rknn_outputs_get")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  if (count != context->output_count()) return -9;
  if (const int code = context->begin(pacer::Kind::Finish)) return code;
  for (uint32_t i = 0; i < count; ++i) {
    const Output& output = outputs[i];
    const piqi::Tensor& tensor = context->output(output.index);
    const size_t size = element_count(tensor.shape) * (output.want_float ? 4 : size_of(tensor.type));
    if (!output.is_preallocated || !output.data || output.size < size) return -9;
    fetch(tensor, context->output_data(output.index), output.data, output.want_float, Axes::Nchw);
  }
  return context->end();
}

PIQI_EXPORT int rknn_outputs_release(Handle handle, uint32_t, Output*) {
  if (const int code = fault("rknn_outputs_release")) return code;
  return find(handle) ? 0 : context_invalid;
}
