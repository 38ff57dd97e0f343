// Rockchip's NPUs of the first generation: RK1808, RK3399Pro. Inputs and outputs are copied, over USB on
// some.
#include <atomic>
#include <mutex>
#include <utility>

#include "rknn1_api.hpp"
#include "rknn_library.hpp"

namespace piqi {
namespace {

using rknn::End;
using rknn::Generation;
using rknn1::Attribute;
using rknn1::Handle;

/// The library's functions and what all partitions share.
struct Api {
  explicit Api(const std::string& path) : library(load(path)) {}

  // Refused before rknn_init is called with the wrong number of arguments.
  static rknn::Library load(const std::string& path) {
    rknn::Library library("rknn1", path);
    if (library.find<void()>("rknn_set_io_mem"))
      library.refuse("has 'rknn_set_io_mem': a library of the second generation (backend rknn2)");
    return library;
  }

  void check(const std::string& where, const char* call, int code) const {
    rknn::check(Generation::First, where, call, code);
  }

  const rknn::Library library;
  rknn1::Init* const init = library.need<rknn1::Init>("rknn_init");
  rknn1::Destroy* const destroy = library.need<rknn1::Destroy>("rknn_destroy");
  rknn1::QueryFunction* const query = library.need<rknn1::QueryFunction>("rknn_query");
  rknn1::InputsSet* const inputs_set = library.need<rknn1::InputsSet>("rknn_inputs_set");
  rknn1::Run* const run = library.need<rknn1::Run>("rknn_run");
  rknn1::OutputsGet* const outputs_get = library.need<rknn1::OutputsGet>("rknn_outputs_get");
  rknn1::OutputsRelease* const outputs_release = library.need<rknn1::OutputsRelease>("rknn_outputs_release");

  std::atomic<uint64_t> copied_bytes{0};
  std::mutex mutex;
  std::string version;  // under mutex
};

/// A loaded partition.
class Context {
 public:
  Context(std::shared_ptr<Api> api, const SubGraph& sub_graph)
      : api_(std::move(api)), where_(rknn::name_of(sub_graph)) {
    std::vector<uint8_t> model = rknn::read_vendor_file(sub_graph);
    check("rknn_init", api_->init(&handle_, model.data(), static_cast<uint32_t>(model.size()), 0));
  }
  ~Context() { api_->destroy(handle_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Handle handle() const { return handle_; }
  Api& api() const { return *api_; }
  const std::string& where() const { return where_; }
  void check(const char* call, int code) const { api_->check(where_, call, code); }

  template <typename Info>
  void query(rknn1::Query what, Info& info) const {
    check("rknn_query", api_->query(handle_, what, &info, sizeof info));
  }
  std::vector<Attribute> attributes(rknn1::Query what, uint32_t count) const {
    std::vector<Attribute> all(count);
    for (uint32_t i = 0; i < count; ++i) {
      all[i].index = i;
      query(what, all[i]);
    }
    return all;
  }

 private:
  const std::shared_ptr<Api> api_;
  const std::string where_;
  Handle handle_ = 0;
};

class Rknn1SubGraph final : public PreparedSubGraph {
 public:
  Rknn1SubGraph(const Graph& graph, const SubGraph& sub_graph, std::unique_ptr<Context> context)
      : context_(std::move(context)) {
    rknn1::SdkVersion version{};
    context_->query(rknn1::query_sdk_version, version);
    {
      const std::lock_guard lock(api().mutex);
      api().version = std::string("API ") + version.api + ", driver " + version.driver;
    }
    rknn1::InOutNum count{};
    context_->query(rknn1::query_in_out_num, count);
    if (count.inputs != sub_graph.receivers.size())
      throw PartitionError(context_->where() + ": has " + std::to_string(count.inputs) + " inputs, " +
                           std::to_string(sub_graph.receivers.size()) + " tensors enter the range");
    const auto match = [&](const std::vector<Attribute>& attributes, const std::vector<TensorId>& tensors,
                           const char* what) {
      std::vector<End> ends;
      for (const Attribute& attribute : attributes) ends.push_back(rknn::make_end(attribute, true));
      std::vector<Port> ports;
      for (End& end : rknn::match(graph, tensors, *sub_graph.partition, ends, context_->where(), what)) {
        const Attribute& attribute = attributes[end.index];
        const size_t size_bytes = attribute.elements * size_of(end.format.type);
        ports.push_back({std::move(end), static_cast<uint32_t>(size_bytes), attribute.type, attribute.order});
      }
      return ports;
    };
    inputs_ = match(context_->attributes(rknn1::query_input, count.inputs), sub_graph.receivers, "input");
    const auto outputs = context_->attributes(rknn1::query_output, count.outputs);
    outputs_ = match(outputs, sub_graph.senders, "output");
    for (const Attribute& output : outputs) unused_.emplace_back(output.elements * sizeof(float));
    for (const Port& port : outputs_) unused_[port.end.index] = {};
  }

  Format input_format(size_t i) const override { return inputs_.at(i).end.format; }
  Format output_format(size_t i) const override { return outputs_.at(i).end.format; }
  bool may_hang() const override { return true; }
  size_t memory_bytes() const override {
    size_t total = 0;
    for (const auto& buffer : unused_) total += buffer.size();
    return total;
  }
  void measure_kernels(bool enabled) override { measured_ = enabled; }
  int64_t take_kernel_ns() override { return std::exchange(kernel_ns_, 0); }

  void bind(const void* const* inputs, void* const* outputs) override {
    std::vector<rknn1::Input> set;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Port& port = inputs_[i];
      api().copied_bytes += port.size_bytes;
      // The library only reads what it is given; what has the NPU's own type and layout it takes as it is.
      set.push_back({port.end.index, const_cast<void*>(inputs[i]), port.size_bytes, port.end.quantised,
                     port.end.quantised ? port.type : rknn1::type_float32, port.order});
    }
    context_->check("rknn_inputs_set",
                    api().inputs_set(context_->handle(), static_cast<uint32_t>(set.size()), set.data()));
    output_data_.assign(outputs, outputs + outputs_.size());
  }

  void run_step(size_t step, pthreadpool_t) override {
    if (step != 0) return;
    context_->check("rknn_run", api().run(context_->handle(), nullptr));
    std::vector<rknn1::Output> outputs(unused_.size());
    for (uint32_t i = 0; i < outputs.size(); ++i)
      outputs[i] = {1, 1, i, unused_[i].data(), static_cast<uint32_t>(unused_[i].size())};
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const Port& port = outputs_[i];
      api().copied_bytes += port.size_bytes;
      outputs[port.end.index] = {!port.end.quantised, 1, port.end.index, output_data_[i], port.size_bytes};
    }
    const auto count = static_cast<uint32_t>(outputs.size());
    context_->check("rknn_outputs_get",
                    api().outputs_get(context_->handle(), count, outputs.data(), nullptr));
    rknn1::PerfRun time{};
    if (measured_ && api().query(context_->handle(), rknn1::query_perf_run, &time, sizeof time) == 0)
      kernel_ns_ += 1000 * time.duration_us;
    context_->check("rknn_outputs_release", api().outputs_release(context_->handle(), count, outputs.data()));
  }

 private:
  struct Port {
    End end;
    uint32_t size_bytes;
    int32_t type, order;
  };
  Api& api() const { return context_->api(); }

  const std::unique_ptr<Context> context_;
  std::vector<Port> inputs_, outputs_;
  std::vector<std::vector<uint8_t>> unused_;  // for outputs that nobody reads
  bool measured_ = false;
  int64_t kernel_ns_ = 0;
  std::vector<void*> output_data_;
};

class Rknn1Backend final : public VendorBackend {
 public:
  Rknn1Backend(const std::string& path, const RknnOptions& options)
      : api_(std::make_shared<Api>(path)), options_(options) {}

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache&) override {
    return rknn::supervised<std::unique_ptr<PreparedSubGraph>>(
        options_.prepare_timeout, rknn::name_of(sub_graph), [api = api_, graph, sub_graph] {
          return std::make_unique<Rknn1SubGraph>(*graph, sub_graph,
                                                 std::make_unique<Context>(api, sub_graph));
        });
  }

  std::string library() const override { return api_->library.path(); }
  std::string version() const override {
    const std::lock_guard lock(api_->mutex);
    return api_->version;
  }
  uint64_t copied_bytes() const override { return api_->copied_bytes; }

 private:
  const std::shared_ptr<Api> api_;
  const RknnOptions options_;
};

}  // namespace

std::shared_ptr<VendorBackend> make_rknn1_backend(const std::string& path, const RknnOptions& options) {
  return std::make_shared<Rknn1Backend>(path, options);
}

}  // namespace piqi
