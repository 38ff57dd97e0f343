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
#include "rknn_library.hpp"

namespace piqi::rknn2 {

class MappedMemory;

/// The library's functions and what all partitions share.
struct Api {
  explicit Api(const std::string& path) : library(load(path)) {}

  // Refused before rknn_init is called with the wrong number of arguments.
  static rknn::Library load(const std::string& path) {
    rknn::Library library("rknn2", path);
    if (!library.find<SetIoMemory>("rknn_set_io_mem"))
      library.refuse(
          "has no 'rknn_set_io_mem': a library of the first generation (backend rknn1), or too old");
    return library;
  }

  void check(const std::string& where, const char* call, int code) const {
    rknn::check(rknn::Generation::Second, where, call, code);
  }

  const rknn::Library library;
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

  std::atomic<uint64_t> copied_bytes{0};
  std::mutex mutex;
  std::string version;                                          // under mutex
  std::map<const void*, std::weak_ptr<MappedMemory>> memories;  // under mutex: by address
};

/// A loaded partition.
class Context {
 public:
  Context(std::shared_ptr<Api> api, const SubGraph& sub_graph) : api_(std::move(api)) {
    std::vector<uint8_t> model = rknn::read_vendor_file(sub_graph);
    api_->check(rknn::name_of(sub_graph), "rknn_init",
                api_->init(&handle_, model.data(), static_cast<uint32_t>(model.size()), 0, nullptr));
  }
  /// Another one of the same weights. Throws BackendError.
  Context(const std::shared_ptr<Context>& twin, const std::string& where) : api_(twin->api_), twin_(twin) {
    api_->check(where, "rknn_dup_context", api_->duplicate(&twin->handle_, &handle_));
  }
  ~Context() { api_->destroy(handle_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Handle handle() const { return handle_; }
  Api& api() const { return *api_; }
  const std::shared_ptr<Api>& shared_api() const { return api_; }

  template <typename Info>
  void query(const std::string& where, Query what, Info& info) const {
    api_->check(where, "rknn_query", api_->query(handle_, what, &info, sizeof info));
  }
  std::vector<Attribute> attributes(const std::string& where, Query what, uint32_t count) const {
    std::vector<Attribute> all(count);
    for (uint32_t i = 0; i < count; ++i) {
      all[i].index = i;
      query(where, what, all[i]);
    }
    return all;
  }

  std::atomic<bool> busy{false};  // inside the library, perhaps for ever

 private:
  const std::shared_ptr<Api> api_;
  const std::shared_ptr<Context> twin_;
  Handle handle_ = 0;
};

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
