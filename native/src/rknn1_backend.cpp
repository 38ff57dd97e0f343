// Rockchip's NPUs of the first generation: RK1808, RK3399Pro. Inputs and outputs are copied, over USB on
// some.
#include <utility>

#include "rknn1_api.hpp"
#include "rknn_context.hpp"

namespace piqi {
namespace {

/// The library's functions.
struct Api : rknn::LoadedLibrary {
  using Handle = rknn1::Handle;
  using Attribute = rknn1::Attribute;
  using SdkVersion = rknn1::SdkVersion;
  using InOutNum = rknn1::InOutNum;

  explicit Api(const std::string& path) : LoadedLibrary(rknn::Generation::First, load(path)) {}

  // Refused before rknn_init is called with the wrong number of arguments.
  static rknn::Library load(const std::string& path) {
    rknn::Library library("rknn1", path);
    if (library.find<void()>("rknn_set_io_mem"))
      library.refuse("has 'rknn_set_io_mem': a library of the second generation (backend rknn2)");
    return library;
  }

  rknn1::Init* const init = library.need<rknn1::Init>("rknn_init");
  rknn1::Destroy* const destroy = library.need<rknn1::Destroy>("rknn_destroy");
  rknn1::QueryFunction* const query = library.need<rknn1::QueryFunction>("rknn_query");
  rknn1::InputsSet* const inputs_set = library.need<rknn1::InputsSet>("rknn_inputs_set");
  rknn1::Run* const run = library.need<rknn1::Run>("rknn_run");
  rknn1::OutputsGet* const outputs_get = library.need<rknn1::OutputsGet>("rknn_outputs_get");
  rknn1::OutputsRelease* const outputs_release = library.need<rknn1::OutputsRelease>("rknn_outputs_release");
};

using Context = rknn::Context<Api>;

std::unique_ptr<Context> load(const std::shared_ptr<Api>& api, const SubGraph& sub_graph) {
  std::vector<uint8_t> model = rknn::read_vendor_file(sub_graph);
  return std::make_unique<Context>(api, sub_graph, "rknn_init", [&](rknn1::Handle* handle) {
    return api->init(handle, model.data(), static_cast<uint32_t>(model.size()), 0);
  });
}

class Rknn1SubGraph final : public PreparedSubGraph {
 public:
  Rknn1SubGraph(const Graph& graph, const SubGraph& sub_graph, std::unique_ptr<Context> context)
      : context_(std::move(context)) {
    context_->note_version(rknn1::query_sdk_version);
    const rknn1::InOutNum count = context_->count(rknn1::query_in_out_num, sub_graph);
    const auto match = [&](const std::vector<rknn1::Attribute>& attributes,
                           const std::vector<TensorId>& tensors, const char* what) {
      return rknn::match_ports<Port>(graph, tensors, *sub_graph.partition, attributes, true,
                                     context_->where(), what);
    };
    inputs_ = match(context_->attributes(rknn1::query_input, count.inputs), sub_graph.receivers, "input");
    const auto outputs = context_->attributes(rknn1::query_output, count.outputs);
    outputs_ = match(outputs, sub_graph.senders, "output");
    unused_ = rknn::unused_outputs(outputs, outputs_);
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
                     port.end.quantised ? port.attribute.type : rknn1::type_float32, port.attribute.order});
    }
    context_->check("rknn_inputs_set",
                    api().inputs_set(context_->handle(), static_cast<uint32_t>(set.size()), set.data()));
    output_data_.assign(outputs, outputs + outputs_.size());
  }

  void run_step(size_t step, pthreadpool_t) override {
    if (step != 0) return;
    context_->check("rknn_run", api().run(context_->handle(), nullptr));
    auto outputs = rknn::wanted_outputs<rknn1::Output>(outputs_, output_data_, unused_);
    for (const Port& port : outputs_) api().copied_bytes += port.size_bytes;
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
    rknn::End end;
    rknn1::Attribute attribute{};
    uint32_t size_bytes = 0;
  };
  Api& api() const { return context_->api(); }

  const std::unique_ptr<Context> context_;
  std::vector<Port> inputs_, outputs_;
  std::vector<std::vector<uint8_t>> unused_;  // for outputs that nobody reads
  bool measured_ = false;
  int64_t kernel_ns_ = 0;
  std::vector<void*> output_data_;
};

class Rknn1Backend final : public rknn::LoadedBackend<Api> {
 public:
  using LoadedBackend::LoadedBackend;

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache&) override {
    return rknn::supervised<std::unique_ptr<PreparedSubGraph>>(
        options_.prepare_timeout, rknn::name_of(sub_graph), [api = api_, graph, sub_graph] {
          return std::make_unique<Rknn1SubGraph>(*graph, sub_graph, load(api, sub_graph));
        });
  }
};

}  // namespace

std::shared_ptr<VendorBackend> make_rknn1_backend(const std::string& path, const RknnOptions& options) {
  return std::make_shared<Rknn1Backend>(path, options);
}

}  // namespace piqi
