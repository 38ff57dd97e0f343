// librknnrt.so over the emulated NPU.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "emulator.hpp"
#include "rknn2_api.hpp"

namespace {

using namespace emulator;
using namespace piqi::rknn2;
using piqi::DataType;
using piqi::element_count;

uint32_t padded(size_t width) {
  const int64_t stride = setting("stride");
  return static_cast<uint32_t>(stride > 0 ? (width + stride - 1) / stride * stride : width);
}

int describe(const piqi::Tensor& tensor, const std::string& name, bool nchw, bool native,
             Attribute& attribute) {
  const uint32_t index = attribute.index;
  attribute = {};
  attribute.index = index;
  std::strncpy(attribute.name, name.c_str(), sizeof attribute.name - 1);
  piqi::Shape shape = tensor.shape;
  const bool image = shape.size() == 4;
  if (image && nchw) shape = {shape[0], shape[3], shape[1], shape[2]};
  attribute.n_dims = static_cast<uint32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) attribute.dims[i] = static_cast<uint32_t>(shape[i]);
  attribute.elements = static_cast<uint32_t>(element_count(shape));
  attribute.size = attribute.size_with_stride = static_cast<uint32_t>(tensor.size_bytes());
  attribute.order = !image ? order_undefined : nchw ? order_nchw : order_nhwc;
  attribute.type = tensor.type == DataType::Int8    ? type_int8
                   : tensor.type == DataType::UInt8 ? type_uint8
                                                    : type_float32;
  if (!tensor.quantization.scales.empty()) {
    attribute.quantizing = quantizing_affine;
    attribute.scale = tensor.quantization.scales[0];
    attribute.zero_point = tensor.quantization.zero_point;
  }
  if (native && image) {
    attribute.width_stride = padded(tensor.shape[2]);
    attribute.size_with_stride =
        static_cast<uint32_t>(tensor.size_bytes() / tensor.shape[2] * attribute.width_stride);
  }
  return 0;
}

// Mapped by itself, whatever address it is told: what others write arrives through the descriptor.
struct Mapping {
  Memory memory{};
  void* mapped = nullptr;
};

Memory* map(int fd, void* data, uint32_t size) {
  auto* mapping = new Mapping;
  mapping->mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapping->mapped == MAP_FAILED) {
    delete mapping;
    return nullptr;
  }
  mapping->memory = {data ? data : mapping->mapped, 0, fd, 0, size, 0, mapping};
  ++counters[Memories];
  return &mapping->memory;
}

}  // namespace

PIQI_EXPORT int rknn_init(Handle* handle, void* model, uint32_t size, uint32_t, InitExtension* extension) {
  if (const int code = fault("rknn_init")) return code;
  if (extension) return param_invalid;
  return load(model, size, {"rk3562", "rk3566", "rk3568", "rk3576", "rk3588"}, *handle);
}

PIQI_EXPORT int rknn_dup_context(Handle* from, Handle* to) {
  if (const int code = fault("rknn_dup_context")) return code;
  const auto context = find(*from);
  if (!context) return context_invalid;
  *to = add(std::make_shared<Context>(context->model()));
  ++counters[Twins];
  return 0;
}

PIQI_EXPORT int rknn_destroy(Handle handle) {
  if (const int code = fault("rknn_destroy")) return code;
  return drop(handle) ? 0 : context_invalid;
}

PIQI_EXPORT int rknn_query(Handle handle, int32_t query, void* info, uint32_t size) {
  if (const int code = fault("rknn_query")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  const auto& network = context->model()->network;
  const auto attribute = [&](bool input, bool nchw, bool native) -> int {
    auto* wanted = static_cast<Attribute*>(info);
    if (size != sizeof *wanted || wanted->index >= (input ? context->input_count() : context->output_count()))
      return param_invalid;
    const auto& names = input ? network.inputs : network.outputs;
    return describe(input ? context->input(wanted->index) : context->output(wanted->index),
                    names[wanted->index], nchw, native, *wanted);
  };
  switch (query) {
    case query_in_out_num:
      if (size != sizeof(InOutNum)) return param_invalid;
      *static_cast<InOutNum*>(info) = {static_cast<uint32_t>(context->input_count()),
                                       static_cast<uint32_t>(context->output_count())};
      return 0;
    case query_input:
      return attribute(true, false, false);
    case query_output:
      return attribute(false, true, false);
    case query_native_nhwc_input:
    case query_native_nhwc_output:
      if (setting("old")) return param_invalid;
      return attribute(query == query_native_nhwc_input, false, true);
    case query_perf_run:
      if (size != sizeof(PerfRun)) return param_invalid;
      static_cast<PerfRun*>(info)->duration_us = context->run_us;
      return 0;
    case query_sdk_version:
      if (size != sizeof(SdkVersion)) return param_invalid;
      *static_cast<SdkVersion*>(info) = {"2.3.2 (emulated)", "0.9.8"};
      return 0;
    default:
      return param_invalid;
  }
}

PIQI_EXPORT int rknn_inputs_set(Handle handle, uint32_t count, Input* inputs) {
  if (const int code = fault("rknn_inputs_set")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  for (uint32_t i = 0; i < count; ++i) {
    const Input& input = inputs[i];
    if (input.index >= context->input_count()) return -8;
    const piqi::Tensor& tensor = context->input(input.index);
    if (input.pass_through) {
      if (input.size != tensor.size_bytes()) return -8;
      std::memcpy(context->input_data(input.index), input.data, input.size);
      counters[CopiedBytes] += input.size;
      ++counters[PassedThrough];
      continue;
    }
    const DataType type = input.type == type_int8    ? DataType::Int8
                          : input.type == type_uint8 ? DataType::UInt8
                                                     : DataType::Float32;
    if (input.size != element_count(tensor.shape) * size_of(type)) return -8;
    store(tensor, context->input_data(input.index), input.data, type,
          input.order == order_nchw ? Axes::Nchw : Axes::Nhwc);
  }
  return 0;
}

PIQI_EXPORT int rknn_set_core_mask(Handle handle, int32_t mask) {
  if (const int code = fault("rknn_set_core_mask")) return code;
  if (!find(handle)) return context_invalid;
  return mask == 0 || mask == 1 || mask == 2 || mask == 4 || mask == 3 || mask == 7 ? 0 : param_invalid;
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
  for (uint32_t i = 0; i < count; ++i) {
    const Output& output = outputs[i];
    const piqi::Tensor& tensor = context->output(output.index);
    const size_t size = element_count(tensor.shape) * (output.want_float ? 4 : size_of(tensor.type));
    if (!output.is_preallocated || !output.data || output.size < size) return -9;
    fetch(tensor, context->output_data(output.index), output.data, output.want_float, Axes::Nchw);
  }
  return 0;
}

PIQI_EXPORT int rknn_outputs_release(Handle handle, uint32_t, Output*) {
  if (const int code = fault("rknn_outputs_release")) return code;
  return find(handle) ? 0 : context_invalid;
}

PIQI_EXPORT Memory* rknn_create_mem(Handle handle, uint32_t size) {
  if (fault("rknn_create_mem") || !find(handle)) return nullptr;
  const int fd = memfd_create("npu", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, size) != 0) return nullptr;
  return map(fd, nullptr, size);
}

PIQI_EXPORT Memory* rknn_create_mem_from_fd(Handle handle, int32_t fd, void* data, uint32_t size,
                                            int32_t offset) {
  if (fault("rknn_create_mem_from_fd") || !find(handle) || offset != 0) return nullptr;
  const int own = dup(fd);
  if (own < 0) return nullptr;
  ++counters[Imports];
  return map(own, data, size);
}

PIQI_EXPORT int rknn_destroy_mem(Handle handle, Memory* memory) {
  if (!find(handle)) return context_invalid;
  auto* mapping = static_cast<Mapping*>(memory->internal);
  munmap(mapping->mapped, memory->size);
  close(memory->fd);
  delete mapping;
  --counters[Memories];
  return 0;
}

PIQI_EXPORT int rknn_set_io_mem(Handle handle, Memory* memory, Attribute* attribute) {
  if (const int code = fault("rknn_set_io_mem")) return code;
  const auto context = find(handle);
  if (!context) return context_invalid;
  // The library tells inputs from outputs by the attribute's name.
  const auto& network = context->model()->network;
  const bool is_input =
      attribute->index < context->input_count() && network.inputs[attribute->index] == attribute->name;
  if (!is_input &&
      (attribute->index >= context->output_count() || network.outputs[attribute->index] != attribute->name))
    return param_invalid;
  const piqi::Tensor& tensor =
      is_input ? context->input(attribute->index) : context->output(attribute->index);
  const int32_t type = tensor.type == DataType::Int8    ? type_int8
                       : tensor.type == DataType::UInt8 ? type_uint8
                                                        : type_float32;
  if (attribute->type != type || (tensor.shape.size() == 4 && attribute->order != order_nhwc) ||
      memory->size < tensor.size_bytes())
    return param_invalid;
  void* data = static_cast<Mapping*>(memory->internal)->mapped;
  is_input ? context->use_input(attribute->index, data) : context->use_output(attribute->index, data);
  ++counters[IoMemoriesSet];
  return 0;
}
