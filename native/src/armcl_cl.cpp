// A GPU on the Arm Compute Library's OpenCL functions. Tensors inside of a sub-graph stay on the GPU.
#if defined(PIQI_ARMCL)
#include <arm_compute/core/CL/CLHelpers.h>
#include <arm_compute/runtime/CL/CLFunctions.h>
#include <arm_compute/runtime/CL/CLScheduler.h>
#include <arm_compute/runtime/CL/CLTensor.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "armcl_functions.hpp"
#include "piqi/backend.hpp"

namespace piqi {
namespace {

using namespace armcl;

/// The library has one queue, and compiles kernels in one place: one thread at a time.
std::mutex& gpu_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// Gives the CPU a tensor's memory while it lives.
class Mapped {
 public:
  explicit Mapped(acl::CLTensor& tensor) : tensor_(tensor) { tensor_.map(true); }
  ~Mapped() { tensor_.unmap(); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  uint8_t* data() { return tensor_.buffer(); }

 private:
  acl::CLTensor& tensor_;
};

struct OpenCl {
  static constexpr const char* name = "OpenCL";
  using Tensor = acl::CLTensor;
  using ITensor = acl::ICLTensor;
  PIQI_ARMCL_FUNCTIONS(CL);

  static void fill(Tensor& tensor, const void* data) {
    tensor.allocator()->allocate();
    Mapped mapped(tensor);
    copy_in(data, mapped.data(), *tensor.info());
  }
  static void finish() { acl::CLScheduler::get().sync(); }
};

class ClSubGraph final : public PreparedSubGraph {
 public:
  ClSubGraph(std::shared_ptr<const Graph> graph, const SubGraph& sub_graph, acl::DataType type,
             std::shared_ptr<std::atomic<uint64_t>> copied_bytes)
      : graph_(std::move(graph)),
        inputs_(sub_graph.receivers),
        outputs_(sub_graph.senders),
        type_(type),
        copied_bytes_(std::move(copied_bytes)) {
    const std::lock_guard lock(gpu_mutex());
    for (TensorId id : inputs_) external(id);
    for (const Step& step : sub_graph.steps) {
      for (OperatorId id : step.operators) add(graph_->operators()[id]);
      steps_.push_back(nodes_.size());
    }
    for (TensorId id : outputs_) external(id);
    guarded("armcl_cl", [&] {
      allocate();
      for (Node& node : nodes_)
        if (node.functions) node.functions->prepare();
    });
  }

  ~ClSubGraph() override {
    const std::lock_guard lock(gpu_mutex());
    nodes_.clear();
    slots_.clear();
  }

  Format input_format(size_t) const override { return {}; }
  Format output_format(size_t) const override { return {}; }

  void bind(const void* const* inputs, void* const* outputs) override {
    output_data_.assign(outputs, outputs + outputs_.size());
    const std::lock_guard lock(gpu_mutex());
    guarded("armcl_cl", [&] {
      for (size_t i = 0; i < inputs_.size(); ++i) {
        acl::CLTensor& tensor = *slots_.at(inputs_[i]).tensor;
        Mapped mapped(tensor);
        copy_in(inputs[i], mapped.data(), *tensor.info());
        *copied_bytes_ += graph_->tensor(inputs_[i]).size_bytes();
      }
    });
  }

  void run_step(size_t step, pthreadpool_t) override {
    const std::lock_guard lock(gpu_mutex());
    guarded("armcl_cl", [&] {
      for (size_t i = steps_[step]; i < steps_[step + 1]; ++i) nodes_[i].run();
      acl::CLScheduler::get().sync();
    });
  }

  void finish() override {
    const std::lock_guard lock(gpu_mutex());
    guarded("armcl_cl", [&] {
      for (size_t i = 0; i < outputs_.size(); ++i) {
        acl::CLTensor& tensor = *slots_.at(outputs_[i]).tensor;
        Mapped mapped(tensor);
        copy_out(mapped.data(), *tensor.info(), output_data_[i]);
        *copied_bytes_ += graph_->tensor(outputs_[i]).size_bytes();
      }
    });
  }

  /// Packed weights are about as large as they were; the library does not tell.
  size_t memory_bytes() const override { return buffer_bytes_ + constant_bytes_; }

 private:
  /// A tensor of the sub-graph, or one between an operator and a change of shape.
  struct Slot {
    std::shared_ptr<acl::CLTensor> tensor;
    size_t first = npos, last = 0;  // nodes that make and last read it
  };
  struct Node {
    std::unique_ptr<Functions<OpenCl>> functions;  // or
    std::unique_ptr<acl::CLReshapeLayer> reshape;
    void run() { functions ? functions->run() : reshape->run(); }
  };

  Slot& slot(TensorId id) {
    Slot& found = slots_[id];
    if (!found.tensor) found.tensor = make_tensor<acl::CLTensor>(info_of(graph_->tensor(id).shape, type_));
    return found;
  }
  // Written before the first node, or read after the last.
  void external(TensorId id) {
    Slot& found = slot(id);
    if (found.first == npos) found.first = 0;
    found.last = npos;
  }

  acl::CLTensor* reads(TensorId id) {
    Slot& found = slot(id);
    found.last = std::max(found.last, nodes_.size());
    return found.tensor.get();
  }
  acl::CLTensor* makes(TensorId id) {
    Slot& found = slot(id);
    found.first = std::min(found.first, nodes_.size());
    found.last = std::max(found.last, nodes_.size());
    return found.tensor.get();
  }

  void add(const Operator& op) {
    const OperatorView view{*graph_, op};
    std::vector<acl::CLTensor*> inputs, outputs;
    std::vector<std::pair<acl::CLTensor*, TensorId>>
        changed;  // outputs that the operator makes in other shapes
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (view.input(i).is_constant()) {
        inputs.push_back(nullptr);
        constant_bytes_ += view.input(i).size_bytes() * acl::data_size_from_type(type_) / sizeof(float);
        continue;
      }
      const Shape wanted = Functions<OpenCl>::input_shape(view, i);
      if (wanted == view.input(i).shape) {
        inputs.push_back(reads(op.inputs[i]));
        continue;
      }
      acl::CLTensor* const source = reads(op.inputs[i]);
      inputs.push_back(temporary(wanted, 1));
      reshape(view, source, inputs.back());
      reads(op.inputs[i]);
    }
    for (size_t i = 0; i < op.outputs.size(); ++i) {
      const Shape wanted = Functions<OpenCl>::output_shape(view, i);
      const bool same = wanted == view.output(i).shape;
      outputs.push_back(same ? makes(op.outputs[i]) : temporary(wanted, 1 + op.outputs.size()));
      if (!same) changed.emplace_back(outputs.back(), op.outputs[i]);
    }
    auto functions = std::make_unique<Functions<OpenCl>>(view, type_, nullptr);
    guarded(view.label(), [&] { functions->configure(inputs, outputs); });
    nodes_.push_back({std::move(functions), nullptr});
    for (const auto& [from, id] : changed) reshape(view, from, makes(id));
  }

  // Lives for the next `nodes` nodes.
  acl::CLTensor* temporary(const Shape& shape, size_t nodes) {
    Slot& made = slots_[graph_->tensors().size() + slots_.size()];
    made = {make_tensor<acl::CLTensor>(info_of(shape, type_)), nodes_.size(), nodes_.size() + nodes};
    return made.tensor.get();
  }

  void reshape(const OperatorView& view, acl::CLTensor* from, acl::CLTensor* to) {
    auto function = std::make_unique<acl::CLReshapeLayer>();
    guarded(view.label(), [&] { function->configure(from, to); });
    nodes_.push_back({nullptr, std::move(function)});
  }

  // Tensors that do not live at a time share memory.
  void allocate() {
    struct Buffer {
      size_t size = 0, busy_until = 0;
      std::vector<Slot*> slots;
    };
    std::vector<Slot*> order;
    for (auto& [id, slot] : slots_) order.push_back(&slot);
    std::stable_sort(order.begin(), order.end(),
                     [](const Slot* a, const Slot* b) { return a->first < b->first; });
    std::vector<Buffer> buffers;
    for (Slot* slot : order) {
      const size_t size = slot->tensor->info()->total_size();
      Buffer* best = nullptr;
      const auto waste = [size](const Buffer& b) { return b.size > size ? b.size - size : size - b.size; };
      for (Buffer& buffer : buffers)
        if (buffer.busy_until < slot->first && (!best || waste(buffer) < waste(*best))) best = &buffer;
      if (!best) best = &buffers.emplace_back();
      best->size = std::max(best->size, size);
      best->busy_until = slot->last;
      best->slots.push_back(slot);
    }
    for (const Buffer& buffer : buffers) {
      const cl::Buffer memory(acl::CLScheduler::get().context(), CL_MEM_ALLOC_HOST_PTR | CL_MEM_READ_WRITE,
                              buffer.size);
      buffer_bytes_ += buffer.size;
      for (Slot* slot : buffer.slots) {
        acl::Status status = slot->tensor->allocator()->import_memory(memory);
        status.throw_if_error();
      }
    }
  }

  const std::shared_ptr<const Graph> graph_;
  const std::vector<TensorId> inputs_, outputs_;
  const acl::DataType type_;
  const std::shared_ptr<std::atomic<uint64_t>> copied_bytes_;
  std::map<TensorId, Slot> slots_;
  std::vector<Node> nodes_;
  std::vector<size_t> steps_{0};  // where each begins in nodes_, and where the last ends
  std::vector<void*> output_data_;
  size_t buffer_bytes_ = 0, constant_bytes_ = 0;
};

/// The first GPU, or else the first device of any kind.
cl::Device find_device() {
  std::vector<cl::Platform> platforms;
  cl::Platform::get(&platforms);
  for (const cl_device_type type : {cl_device_type{CL_DEVICE_TYPE_GPU}, cl_device_type{CL_DEVICE_TYPE_ALL}}) {
    for (const cl::Platform& platform : platforms) {
      std::vector<cl::Device> devices;
      try {
        platform.getDevices(type, &devices);
      } catch (const cl::Error&) {
        continue;  // it has none of this type
      }
      if (!devices.empty()) return devices[0];
    }
  }
  throw BackendError("armcl_cl: OpenCL has no device");
}

// Returns the device that the library uses, for the whole process.
const cl::Device& initialize() {
  const std::lock_guard lock(gpu_mutex());
  static std::unique_ptr<cl::Device> used;
  if (used) return *used;
  if (!acl::opencl_is_available())
    throw BackendError("armcl_cl: no OpenCL library (libOpenCL.so) can be loaded");
  try {
    cl::Device device = find_device();
    const std::string name = device.getInfo<CL_DEVICE_NAME>();
    const acl::CLVersion version = acl::get_cl_version(device);
    if (version != acl::CLVersion::CL20 && !acl::arm_non_uniform_workgroup_supported(device))
      throw BackendError(
          "armcl_cl: the library needs OpenCL 2.0 or work groups that are not uniform, which " + name + " (" +
          device.getInfo<CL_DEVICE_VERSION>() + ") has not");
    cl::Context context(device);
    acl::CLScheduler::get().default_init_with_context(device, context);
    used = std::make_unique<cl::Device>(device);
  } catch (const cl::Error& error) {
    throw BackendError(std::string("armcl_cl: ") + error.what() + " failed with OpenCL's error " +
                       std::to_string(error.err()) +
                       (error.err() == -1001 ? " (no driver is installed)" : ""));
  }
  return *used;
}

class ClBackend final : public VendorBackend {
 public:
  explicit ClBackend(bool half)
      : type_(half ? acl::DataType::F16 : acl::DataType::F32), device_(initialize()) {
    if (half && !acl::fp16_supported(device_))
      throw BackendError("armcl_cl: " + device_.getInfo<CL_DEVICE_NAME>() + " has no float16 (cl_khr_fp16)");
  }

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache&) override {
    refuse_partition(sub_graph, "armcl_cl", "floating point");
    return std::make_unique<ClSubGraph>(graph, sub_graph, type_, copied_bytes_);
  }

  std::string library() const override { return library_file(); }
  std::string version() const override {
    return library_version() + ", " + device_.getInfo<CL_DEVICE_NAME>() + ", " +
           device_.getInfo<CL_DEVICE_VERSION>();
  }
  uint64_t copied_bytes() const override { return *copied_bytes_; }

 private:
  const acl::DataType type_;
  const cl::Device& device_;
  const std::shared_ptr<std::atomic<uint64_t>> copied_bytes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace

std::shared_ptr<VendorBackend> make_armcl_cl_backend(bool half) {
  return guarded("armcl_cl", [&] { return std::make_shared<ClBackend>(half); });
}

}  // namespace piqi
#endif
