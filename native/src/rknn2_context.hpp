// A partition in librknnrt.so and the NPU's memory.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "rknn2_api.hpp"
#include "rknn_context.hpp"

namespace piqi::rknn2 {

class MappedMemory;

/// The library's functions and the memories of the NPU.
struct Api : rknn::LoadedLibrary {
  using Handle = rknn2::Handle;
  using Attribute = rknn2::Attribute;
  using SdkVersion = rknn2::SdkVersion;
  using InOutNum = rknn2::InOutNum;

  explicit Api(const std::string& path) : LoadedLibrary(rknn::Generation::Second, load(path)) {}

  // Refused before rknn_init is called with the wrong number of arguments.
  static rknn::Library load(const std::string& path) {
    rknn::Library library("rknn2", path);
    if (!library.find<SetIoMemory>("rknn_set_io_mem"))
      library.refuse(
          "has no 'rknn_set_io_mem': a library of the first generation (backend rknn1), or too old");
    return library;
  }

  Init* const init = library.need<Init>("rknn_init");
  Destroy* const destroy = library.need<Destroy>("rknn_destroy");
  QueryFunction* const query = library.need<QueryFunction>("rknn_query");
  InputsSet* const inputs_set = library.need<InputsSet>("rknn_inputs_set");
  Run* const run = library.need<Run>("rknn_run");
  OutputsGet* const outputs_get = library.need<OutputsGet>("rknn_outputs_get");
  OutputsRelease* const outputs_release = library.need<OutputsRelease>("rknn_outputs_release");
  CreateMemory* const create_memory = library.need<CreateMemory>("rknn_create_mem");
  SetIoMemory* const set_io_memory = library.need<SetIoMemory>("rknn_set_io_mem");
  DestroyMemory* const destroy_memory = library.need<DestroyMemory>("rknn_destroy_mem");
  // Newer than others: done without.
  Duplicate* const duplicate = library.find<Duplicate>("rknn_dup_context");
  SetCoreMask* const set_core_mask = library.find<SetCoreMask>("rknn_set_core_mask");
  CreateMemoryFromFd* const create_memory_from_fd =
      library.find<CreateMemoryFromFd>("rknn_create_mem_from_fd");

  std::map<const void*, std::weak_ptr<MappedMemory>> memories;  // under mutex: by address
};

class Context : public rknn::Context<Api> {
 public:
  using rknn::Context<Api>::Context;
  std::atomic<bool> busy{false};  // inside the library, perhaps for ever
};

/// `twin`: null, or a context of the same file, whose weights are used. Throws PartitionError, BackendError.
inline std::shared_ptr<Context> load(const std::shared_ptr<Api>& api, const SubGraph& sub_graph,
                                     std::shared_ptr<const Context> twin) {
  if (twin) {
    Handle from = twin->handle();
    const auto duplicate = [&](Handle* handle) { return api->duplicate(&from, handle); };
    return std::make_shared<Context>(api, sub_graph, "rknn_dup_context", duplicate, std::move(twin));
  }
  std::vector<uint8_t> model = rknn::read_vendor_file(sub_graph);
  return std::make_shared<Context>(api, sub_graph, "rknn_init", [&](Handle* handle) {
    return api->init(handle, model.data(), static_cast<uint32_t>(model.size()), 0, nullptr);
  });
}

/// Memory of the NPU, known to one partition.
class MappedMemory {
 public:
  MappedMemory(std::shared_ptr<Context> context, Memory* memory)
      : context_(std::move(context)), memory_(memory) {}
  ~MappedMemory() { context_->api().destroy_memory(context_->handle(), memory_); }
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(memory_->data); }
  Memory* get() const { return memory_; }
  const Context* context() const { return context_.get(); }

 private:
  const std::shared_ptr<Context> context_;
  Memory* const memory_;
};

}  // namespace piqi::rknn2
