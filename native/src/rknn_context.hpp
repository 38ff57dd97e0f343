// What both generations' backends do alike, each on the types of its own library.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "rknn_library.hpp"

namespace piqi::rknn {

/// A library and what all its partitions share; a generation's functions are added to it.
struct LoadedLibrary {
  LoadedLibrary(Generation its_generation, Library loaded)
      : generation(its_generation), library(std::move(loaded)) {}

  void check(const std::string& where, const char* call, int code) const {
    rknn::check(generation, where, call, code);
  }

  const Generation generation;
  const Library library;
  std::atomic<uint64_t> copied_bytes{0};
  std::mutex mutex;
  std::string version;  // under mutex
};

/// A partition that the library has loaded. `Api`: a LoadedLibrary with `Handle`, `Attribute`, `SdkVersion`
/// and the functions.
template <typename Api>
class Context {
 public:
  using Handle = typename Api::Handle;
  using Attribute = typename Api::Attribute;

  /// `load(Handle*)` does `call` and returns its code. `twin`: outlives this one.
  template <typename Load>
  Context(std::shared_ptr<Api> api, const SubGraph& sub_graph, const char* call, Load&& load,
          std::shared_ptr<const Context> twin = nullptr)
      : api_(std::move(api)), where_(name_of(sub_graph)), twin_(std::move(twin)) {
    check(call, std::forward<Load>(load)(&handle_));
  }
  ~Context() { api_->destroy(handle_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Handle handle() const { return handle_; }
  Api& api() const { return *api_; }
  /// The partition, for errors.
  const std::string& where() const { return where_; }
  void check(const char* call, int code) const { api_->check(where_, call, code); }

  template <typename Info>
  void query(int32_t what, Info& info) const {
    check("rknn_query", api_->query(handle_, what, &info, sizeof info));
  }
  std::vector<Attribute> attributes(int32_t what, uint32_t count) const {
    std::vector<Attribute> all(count);
    for (uint32_t i = 0; i < count; ++i) {
      all[i].index = i;
      query(what, all[i]);
    }
    return all;
  }
  /// Tells the backend; `what`: the query.
  void note_version(int32_t what) const {
    typename Api::SdkVersion version{};
    query(what, version);
    const std::lock_guard lock(api_->mutex);
    api_->version = std::string("API ") + version.api + ", driver " + version.driver;
  }
  /// Number of inputs and outputs. Throws PartitionError unless as many tensors enter the sub-graph.
  typename Api::InOutNum count(int32_t what, const SubGraph& sub_graph) const {
    typename Api::InOutNum count{};
    query(what, count);
    if (count.inputs != sub_graph.receivers.size())
      throw PartitionError(where_ + ": has " + std::to_string(count.inputs) + " inputs, " +
                           std::to_string(sub_graph.receivers.size()) + " tensors enter the range");
    return count;
  }

 private:
  const std::shared_ptr<Api> api_;
  const std::string where_;
  const std::shared_ptr<const Context> twin_;
  Handle handle_ = 0;
};

/// For each tensor the Port of its end, which has `end`, `attribute` and `size_bytes`. Throws PartitionError.
template <typename Port, typename Attribute>
std::vector<Port> match_ports(const Graph& graph, const std::vector<TensorId>& tensors,
                              const Partition& partition, const std::vector<Attribute>& attributes,
                              bool innermost_first, const std::string& where, const char* what) {
  std::vector<End> ends;
  for (const Attribute& attribute : attributes) ends.push_back(make_end(attribute, innermost_first));
  std::vector<Port> ports;
  for (End& end : match(graph, tensors, partition, ends, where, what)) {
    Port& port = ports.emplace_back();
    port.attribute = attributes[end.index];
    port.size_bytes = static_cast<uint32_t>(port.attribute.elements * size_of(end.format.type));
    port.end = std::move(end);
  }
  return ports;
}

/// Memory for the outputs that nobody reads, in float32; the others' is empty.
template <typename Attribute, typename Port>
std::vector<std::vector<uint8_t>> unused_outputs(const std::vector<Attribute>& attributes,
                                                 const std::vector<Port>& ports) {
  std::vector<std::vector<uint8_t>> unused;
  for (const Attribute& attribute : attributes) unused.emplace_back(attribute.elements * sizeof(float));
  for (const Port& port : ports) unused[port.end.index] = {};
  return unused;
}

/// What rknn_outputs_get is told: each port's output into its `data`, the others into `unused`.
template <typename Output, typename Port>
std::vector<Output> wanted_outputs(const std::vector<Port>& ports, const std::vector<void*>& data,
                                   std::vector<std::vector<uint8_t>>& unused) {
  std::vector<Output> outputs(unused.size());
  for (uint32_t i = 0; i < outputs.size(); ++i)
    outputs[i] = {1, 1, i, unused[i].data(), static_cast<uint32_t>(unused[i].size())};
  for (size_t i = 0; i < ports.size(); ++i) {
    const End& end = ports[i].end;
    outputs[end.index] = {!end.quantised, 1, end.index, data[i], ports[i].size_bytes};
  }
  return outputs;
}

template <typename Api>
class LoadedBackend : public VendorBackend {
 public:
  LoadedBackend(const std::string& path, const RknnOptions& options)
      : api_(std::make_shared<Api>(path)), options_(options) {}

  std::string library() const override { return api_->library.path(); }
  std::string version() const override {
    const std::lock_guard lock(api_->mutex);
    return api_->version;
  }
  uint64_t copied_bytes() const override { return api_->copied_bytes; }

 protected:
  const std::shared_ptr<Api> api_;
  const RknnOptions options_;
};

}  // namespace piqi::rknn
