#include "rknn_library.hpp"

#include <link.h>

#include <fstream>

namespace piqi::rknn {
namespace {

struct Code {
  int code;
  const char* name;
  const char* cause;
};

constexpr Code codes[] = {
    {-1, "RKNN_ERR_FAIL",
     "the library failed and says why on the console; at loading usually a file of a newer toolkit than this "
     "library: update the library, or prepare the partition with the toolkit of its version"},
    {-2, "RKNN_ERR_TIMEOUT", "the NPU did not finish: it may hang, or its frequency is held very low"},
    {-3, "RKNN_ERR_DEVICE_UNAVAILABLE", ""},  // by generation
    {-4, "RKNN_ERR_MALLOC_FAIL",
     "not enough memory that the NPU can reach (CMA or IOMMU): use fewer partitions"},
    {-5, "RKNN_ERR_PARAM_INVALID",
     "library and program disagree on the interface: the library may be too old"},
    {-6, "RKNN_ERR_MODEL_INVALID",
     "the file is damaged, or of a newer toolkit than library and driver: bring them to the same version"},
    {-7, "RKNN_ERR_CTX_INVALID", "the driver lost this partition: it, or its service, was restarted"},
    {-8, "RKNN_ERR_INPUT_INVALID", "the partition's inputs are not what the file says of them"},
    {-9, "RKNN_ERR_OUTPUT_INVALID", "the partition's outputs are not what the file says of them"},
    {-10, "RKNN_ERR_DEVICE_UNMATCH", "library and driver (or the NPU's firmware) do not match: update both"},
    {-11, "RKNN_ERR_INCOMPATILE_PRE_COMPILE_MODEL",
     "the file was pre-compiled for another driver: prepare it anew with the toolkit of the driver's "
     "version"},
    {-12, "RKNN_ERR_INCOMPATILE_OPTIMIZATION_LEVEL_VERSION",
     "the driver does not know the file's optimisation level: bring toolkit and driver to the same version"},
    {-13, "RKNN_ERR_TARGET_PLATFORM_UNMATCH",
     "the file was prepared for another chip: see the board's rknn_target"},
    {-14, "RKNN_ERR_NON_PRE_COMPILED_MODEL_ON_MINI_DRIVER",
     "this driver only takes pre-compiled files: prepare it with pre-compilation"},
};

bool is_of_the_file(int code) {
  return code == -6 || (code <= -11 && code >= -14);
}

const char* unavailable(Generation generation) {
  return generation == Generation::First
             ? "no connection to the NPU: on RK3399Pro is npu_transfer_proxy running, and the NPU's firmware "
               "of "
               "the library's version? Another process may hold the device"
             : "the NPU is busy, or its kernel driver (rknpu) is not loaded, or this user may not open "
               "/dev/dri/renderD*";
}

std::vector<size_t> without_ones(const std::vector<size_t>& dims) {
  std::vector<size_t> rest;
  for (size_t size : dims)
    if (size != 1) rest.push_back(size);
  return rest;
}

}  // namespace

Library::Library(const char* backend, const std::string& path) : backend_(backend), path_(path) {
  handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle_) {
    const char* reason = dlerror();
    throw BackendError(backend_ + ": " + (reason ? reason : path));
  }
  link_map* map = nullptr;
  if (dlinfo(handle_, RTLD_DI_LINKMAP, &map) == 0 && map && *map->l_name) path_ = map->l_name;
}

void Library::missing(const char* symbol) const {
  refuse(std::string("has no '") + symbol +
         "': is it the library of this NPU's generation, and not too old?");
}

void Library::refuse(const std::string& reason) const {
  throw BackendError(backend_ + ": " + path_ + ": " + reason);
}

std::string explain(Generation generation, int code) {
  for (const Code& known : codes)
    if (known.code == code)
      return std::string(known.name) + " (" + std::to_string(code) +
             "): " + (code == -3 ? unavailable(generation) : known.cause);
  return "unknown error " + std::to_string(code) + ": the library may be newer than this program";
}

void check(Generation generation, const std::string& where, const char* call, int code) {
  if (code == 0) return;
  const std::string text = where + ": " + call + ": " + explain(generation, code);
  if (code == -2) throw TimeoutError(text);
  if (is_of_the_file(code)) throw PartitionError(text);
  throw BackendError(text);
}

std::string name_of(const SubGraph& sub_graph) {
  std::string name = layer_range(sub_graph);
  if (sub_graph.partition && !sub_graph.partition->vendor_file.empty())
    name += " (" + sub_graph.partition->vendor_file + ")";
  return name;
}

std::vector<uint8_t> read_vendor_file(const SubGraph& sub_graph) {
  if (!sub_graph.partition || sub_graph.partition->vendor_file.empty())
    throw PartitionError(name_of(sub_graph) +
                         ": no file was prepared for this board's NPU: `planner prepare` does that");
  std::ifstream file(sub_graph.partition->vendor_file, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0 || size > UINT32_MAX) throw PartitionError(name_of(sub_graph) + ": cannot be read");
  if (size == 0) throw PartitionError(name_of(sub_graph) + ": the file is empty");
  std::vector<uint8_t> content(static_cast<size_t>(size));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(content.data()), size))
    throw PartitionError(name_of(sub_graph) + ": cannot be read");
  return content;
}

void set_quantised(End& end, DataType type, float scale, int64_t zero_point) {
  const int64_t least = type == DataType::Int8 ? -128 : 0;
  if (!(std::isfinite(scale) && scale > 0) || zero_point < least || zero_point > least + 255)
    throw BackendError("'" + end.name + "': the library gives scale " + std::to_string(scale) +
                       " and zero point " + std::to_string(zero_point) + " for " + to_string(type));
  end.quantised = true;
  end.format = {type, {{scale}, static_cast<int32_t>(zero_point)}, Layout::Nhwc};
}

std::vector<End> match(const Graph& graph, const std::vector<TensorId>& tensors, const Partition& partition,
                       const std::vector<End>& ends, const std::string& where, const char* what) {
  std::vector<End> matched;
  for (TensorId id : tensors) {
    const Tensor& tensor = graph.tensor(id);
    if (tensor.type != DataType::Float32)
      throw UnsupportedError(where + ": '" + tensor.name + "' is " + to_string(tensor.type) +
                             ", only float32 enters and leaves a partition");
    const auto renamed = partition.vendor_names.find(tensor.name);
    const std::string& name = renamed == partition.vendor_names.end() ? tensor.name : renamed->second;
    const auto found =
        std::find_if(ends.begin(), ends.end(), [&](const End& end) { return end.name == name; });
    if (found == ends.end()) {
      std::string known;
      for (const End& end : ends) known += (known.empty() ? "'" : ", '") + end.name + "'";
      throw PartitionError(where + ": has no " + what + " '" + name + "', only " + known);
    }
    End end = *found;
    Shape expected = tensor.shape;
    const bool image = expected.size() == 4;
    if (image && end.nchw) expected = {expected[0], expected[3], expected[1], expected[2]};
    if ((image && end.dims != expected) || without_ones(end.dims) != without_ones(expected))
      throw PartitionError(where + ": " + what + " '" + name + "' has shape " + to_string(end.dims) +
                           ", the network's is " + to_string(expected));
    end.format.layout = image && end.nchw ? Layout::Nchw : Layout::Nhwc;
    matched.push_back(std::move(end));
  }
  return matched;
}

}  // namespace piqi::rknn
