// Rockchip's NPUs of the second generation: RK356x, RK3588.
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "rknn2_context.hpp"

namespace piqi {
namespace {

using rknn2::Api;
using rknn2::Attribute;
using rknn2::Context;
using rknn2::MappedMemory;

/// An end of the partition and the memory that the NPU has for it.
struct Port {
  rknn::End end;
  Attribute attribute{};  // what rknn_set_io_mem is told
  uint32_t size_bytes = 0;
  std::shared_ptr<MappedMemory> memory;   // set
  std::shared_ptr<MappedMemory> staging;  // for a channel that has no memory of the NPU
  std::shared_ptr<MappedMemory> imported;
  std::weak_ptr<MappedMemory> imported_from;
};

struct Busy {
  explicit Busy(std::atomic<bool>& flag) : flag(flag) { flag = true; }
  ~Busy() { flag = false; }
  std::atomic<bool>& flag;
};

class Rknn2SubGraph final : public PreparedSubGraph {
 public:
  Rknn2SubGraph(const Graph& graph, const SubGraph& sub_graph, std::shared_ptr<Context> context,
                bool zero_copy)
      : context_(std::move(context)) {
    const rknn2::InOutNum count = context_->count(rknn2::query_in_out_num, sub_graph);
    const auto match = [&](const std::vector<Attribute>& attributes, const std::vector<TensorId>& tensors,
                           const char* what) {
      return rknn::match_ports<Port>(graph, tensors, *sub_graph.partition, attributes, false,
                                     context_->where(), what);
    };
    const auto inputs = context_->attributes(rknn2::query_input, count.inputs);
    const auto outputs = context_->attributes(rknn2::query_output, count.outputs);
    inputs_ = match(inputs, sub_graph.receivers, "input");
    outputs_ = match(outputs, sub_graph.senders, "output");
    zero_copy_ = zero_copy && use_native_layout(count, graph, sub_graph);
    if (!zero_copy_) {
      for (Port& port : inputs_) find_pass_through(port);
      unused_ = rknn::unused_outputs(outputs, outputs_);
    }
  }

  Format input_format(size_t i) const override { return inputs_.at(i).end.format; }
  Format output_format(size_t i) const override { return outputs_.at(i).end.format; }
  bool may_hang() const override { return true; }
  size_t memory_bytes() const override {
    size_t total = 0;
    for (const auto* ports : {&inputs_, &outputs_})
      for (const Port& port : *ports) total += port.staging ? port.size_bytes : 0;
    return total;
  }
  void measure_kernels(bool enabled) override { measured_ = enabled; }
  int64_t take_kernel_ns() override { return std::exchange(kernel_ns_, 0); }

  std::shared_ptr<uint8_t> input_memory(size_t i) override { return memory_for_channel(inputs_.at(i)); }
  std::shared_ptr<uint8_t> output_memory(size_t i) override { return memory_for_channel(outputs_.at(i)); }

  void bind(const void* const* inputs, void* const* outputs) override {
    const Busy busy(context_->busy);
    output_data_.assign(outputs, outputs + outputs_.size());
    zero_copy_ ? set_in_place(inputs) : set_copying(inputs);
  }

  void run_step(size_t step, pthreadpool_t) override {
    if (step != 0) return;
    const Busy busy(context_->busy);
    context_->check("rknn_run", api().run(context_->handle(), nullptr));
    if (!zero_copy_) get_outputs();
    if (measured_) {
      rknn2::PerfRun time{};
      if (api().query(context_->handle(), rknn2::query_perf_run, &time, sizeof time) == 0)
        kernel_ns_ += 1000 * time.duration_us;
    }
  }

  void finish() override {
    for (size_t i = 0; i < output_copied_.size(); ++i)
      if (output_copied_[i]) copy(output_data_[i], outputs_[i].staging->data(), outputs_[i].size_bytes);
  }

 private:
  Api& api() const { return context_->api(); }

  bool is_sent(uint32_t index) const {
    return std::any_of(outputs_.begin(), outputs_.end(), [&](const Port& p) { return p.end.index == index; });
  }

  // NHWC as the NPU keeps it: possible where all is dense and quantised.
  bool use_native_layout(const rknn2::InOutNum& count, const Graph& graph, const SubGraph& sub_graph) {
    std::vector<Attribute> inputs, outputs;
    try {
      inputs = context_->attributes(rknn2::query_native_nhwc_input, count.inputs);
      outputs = context_->attributes(rknn2::query_native_nhwc_output, count.outputs);
    } catch (const Error&) {
      return false;  // an older library
    }
    const auto fits = [&](const std::vector<Port>& ports, const std::vector<Attribute>& native,
                          const std::vector<TensorId>& tensors) {
      for (size_t i = 0; i < ports.size(); ++i) {
        const Attribute& attribute = native[ports[i].end.index];
        const Shape& shape = graph.tensor(tensors[i]).shape;
        const bool image = shape.size() == 4;
        if (!ports[i].end.quantised) return false;
        if (image && attribute.order != rknn2::order_nhwc) return false;
        if (image && attribute.width_stride != 0 && attribute.width_stride != shape[2]) return false;
        if (attribute.size_with_stride > ports[i].size_bytes) return false;
      }
      return true;
    };
    if (!fits(inputs_, inputs, sub_graph.receivers) || !fits(outputs_, outputs, sub_graph.senders))
      return false;
    const auto use = [](std::vector<Port>& ports, const std::vector<Attribute>& native) {
      for (Port& port : ports) {
        port.attribute = native[port.end.index];
        port.attribute.type = port.end.format.type == DataType::Int8 ? rknn2::type_int8 : rknn2::type_uint8;
        port.attribute.pass_through = 0;
        port.end.format.layout = Layout::Nhwc;
      }
    };
    use(inputs_, inputs);
    use(outputs_, outputs);
    for (uint32_t i = 0; i < count.outputs; ++i) {
      if (is_sent(i)) continue;
      const auto memory = create(std::max(outputs[i].size, outputs[i].size_with_stride));
      if (!memory) return false;
      context_->check("rknn_set_io_mem", api().set_io_memory(context_->handle(), memory->get(), &outputs[i]));
      kept_.push_back(memory);
    }
    return true;
  }

  // Null where there is no memory left of the kind.
  std::shared_ptr<MappedMemory> create(size_t size_bytes) const {
    rknn2::Memory* made =
        api().create_memory(context_->handle(), static_cast<uint32_t>(size_bytes + extra_bytes));
    if (!made) return nullptr;
    auto memory = std::make_shared<MappedMemory>(context_, made);
    if (!made->data || reinterpret_cast<uintptr_t>(made->data) % AlignedBuffer::alignment != 0)
      return nullptr;
    std::memset(memory->data(), 0, size_bytes + extra_bytes);
    return memory;
  }

  std::shared_ptr<uint8_t> memory_for_channel(const Port& port) const {
    if (!zero_copy_) return nullptr;
    const std::shared_ptr<MappedMemory> memory = create(port.size_bytes);
    if (!memory) return nullptr;
    const std::lock_guard lock(api().mutex);
    for (auto i = api().memories.begin(); i != api().memories.end();)
      i = i->second.expired() ? api().memories.erase(i) : std::next(i);
    api().memories[memory->data()] = memory;
    return {memory, memory->data()};
  }

  // The NPU's memory behind a channel's buffer: this partition's own, or another one's, imported. Null: none.
  std::shared_ptr<MappedMemory> find(Port& port, const void* data) const {
    std::shared_ptr<MappedMemory> memory;
    {
      const std::lock_guard lock(api().mutex);
      const auto found = api().memories.find(data);
      if (found != api().memories.end()) memory = found->second.lock();
    }
    if (!memory || memory->context() == context_.get()) return memory;
    if (memory == port.imported_from.lock()) return port.imported;
    if (!api().create_memory_from_fd || memory->get()->fd < 0) return nullptr;
    rknn2::Memory* made = api().create_memory_from_fd(context_->handle(), memory->get()->fd, memory->data(),
                                                      memory->get()->size, memory->get()->offset);
    if (!made) return nullptr;
    port.imported = std::make_shared<MappedMemory>(context_, made);
    port.imported_from = memory;
    return port.imported;
  }

  // Tells the NPU where the tensor is. True: in the port's staging memory, which is to be copied.
  bool set(Port& port, const void* data) {
    std::shared_ptr<MappedMemory> memory = find(port, data);
    const bool copy = !memory;
    if (copy) {
      if (!port.staging) port.staging = create(port.size_bytes);
      if (!port.staging) context_->check("rknn_create_mem", -4);
      memory = port.staging;
    }
    if (memory != port.memory) {
      port.memory.reset();
      context_->check("rknn_set_io_mem",
                      api().set_io_memory(context_->handle(), memory->get(), &port.attribute));
      port.memory = std::move(memory);
    }
    return copy;
  }

  void set_in_place(const void* const* inputs) {
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (set(inputs_[i], inputs[i])) copy(inputs_[i].staging->data(), inputs[i], inputs_[i].size_bytes);
    output_copied_.resize(outputs_.size());
    for (size_t i = 0; i < outputs_.size(); ++i) output_copied_[i] = set(outputs_[i], output_data_[i]);
  }

  void copy(void* to, const void* from, size_t size_bytes) {
    std::memcpy(to, from, size_bytes);
    api().copied_bytes += size_bytes;
  }

  // Whether the library may take the bytes as they are.
  void find_pass_through(Port& port) const {
    Attribute native{};
    native.index = port.end.index;
    port.attribute.pass_through =
        port.end.quantised &&
        api().query(context_->handle(), rknn2::query_native_nhwc_input, &native, sizeof native) == 0 &&
        native.order == port.attribute.order && native.type == port.attribute.type &&
        native.size_with_stride == port.attribute.size && native.size == port.attribute.size;
  }

  void set_copying(const void* const* inputs) {
    std::vector<rknn2::Input> set;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Port& port = inputs_[i];
      api().copied_bytes += port.size_bytes;
      // The library only reads what it is given.
      set.push_back({port.end.index, const_cast<void*>(inputs[i]), port.size_bytes,
                     port.attribute.pass_through,
                     port.end.quantised ? port.attribute.type : rknn2::type_float32, port.attribute.order});
    }
    context_->check("rknn_inputs_set",
                    api().inputs_set(context_->handle(), static_cast<uint32_t>(set.size()), set.data()));
  }

  void get_outputs() {
    auto outputs = rknn::wanted_outputs<rknn2::Output>(outputs_, output_data_, unused_);
    for (const Port& port : outputs_) api().copied_bytes += port.size_bytes;
    const auto count = static_cast<uint32_t>(outputs.size());
    context_->check("rknn_outputs_get",
                    api().outputs_get(context_->handle(), count, outputs.data(), nullptr));
    context_->check("rknn_outputs_release", api().outputs_release(context_->handle(), count, outputs.data()));
  }

  const std::shared_ptr<Context> context_;
  std::vector<Port> inputs_, outputs_;
  std::vector<std::vector<uint8_t>> unused_;         // outputs that nobody reads
  std::vector<std::shared_ptr<MappedMemory>> kept_;  // the same
  bool zero_copy_ = false;
  bool measured_ = false;
  int64_t kernel_ns_ = 0;
  std::vector<void*> output_data_;
  std::vector<bool> output_copied_;  // of zero copy: those that are staged
};

class Rknn2Backend final : public rknn::LoadedBackend<Api> {
 public:
  Rknn2Backend(const std::string& path, const RknnOptions& options) : LoadedBackend(path, options) {
    if (options.core_mask != 0 && !api_->set_core_mask)
      api_->library.refuse("has no 'rknn_set_core_mask': core_mask must be 0");
  }

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache&) override {
    std::shared_ptr<Context> twin;
    const std::string file = sub_graph.partition ? sub_graph.partition->vendor_file : "";
    {
      const std::lock_guard lock(mutex_);
      twin = contexts_[file].lock();
    }
    // One that is at work may hang, and its twin with it.
    if (twin && (twin->busy || !api_->duplicate)) twin.reset();
    using Prepared = std::pair<std::shared_ptr<Context>, std::unique_ptr<Rknn2SubGraph>>;
    auto [context, prepared] = rknn::supervised<Prepared>(
        options_.prepare_timeout, rknn::name_of(sub_graph),
        [api = api_, options = options_, graph, sub_graph, twin = std::move(twin)]() mutable -> Prepared {
          auto context = rknn2::load(api, sub_graph, std::move(twin));
          if (options.core_mask != 0)
            context->check("rknn_set_core_mask",
                           api->set_core_mask(context->handle(), static_cast<int32_t>(options.core_mask)));
          context->note_version(rknn2::query_sdk_version);
          return {context, std::make_unique<Rknn2SubGraph>(*graph, sub_graph, context, options.zero_copy)};
        });
    const std::lock_guard lock(mutex_);
    contexts_[file] = context;
    return std::move(prepared);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<Context>> contexts_;  // by file
};

}  // namespace

std::shared_ptr<VendorBackend> make_rknn2_backend(const std::string& path, const RknnOptions& options) {
  return std::make_shared<Rknn2Backend>(path, options);
}

}  // namespace piqi
