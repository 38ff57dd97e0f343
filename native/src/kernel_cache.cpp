#include "piqi/kernel_cache.hpp"

#include <sstream>

namespace piqi {
namespace {

template <typename T>
void append(std::ostringstream& key, const std::vector<T>& values) {
  key << '[';
  for (const T& value : values) key << value << ',';
  key << ']';
}

std::string key_of(const Graph& graph, const Operator& op) {
  std::ostringstream key;
  key << std::hexfloat << op.name << '\n' << to_string(op.kind);
  const OperatorParameters& p = op.parameters;
  for (size_t value :
       {p.stride_height, p.stride_width, p.dilation_height, p.dilation_width, p.pad_top, p.pad_left,
        p.pad_bottom, p.pad_right, p.kernel_height, p.kernel_width, p.groups, p.axis, p.radius})
    key << ' ' << value;
  for (float value : {p.clamp_min, p.clamp_max, p.alpha, p.beta, p.bias, p.pad_value}) key << ' ' << value;
  key << p.align_corners << p.half_pixel_centers;
  for (const auto& values : {p.axes, p.pad_before, p.pad_after, p.begin, p.size}) append(key, values);
  append(key, p.strides);
  for (const auto& ids : {op.inputs, op.outputs}) {
    for (TensorId id : ids) {
      const Tensor& tensor = graph.tensor(id);
      key << to_string(tensor.type) << tensor.quantization.zero_point << tensor.data.get();
      append(key, tensor.shape);
      append(key, tensor.quantization.scales);
    }
  }
  return key.str();
}

}  // namespace

std::shared_ptr<Kernel> KernelCache::get(const Graph& graph, const Operator& op) {
  const std::string key = key_of(graph, op);
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found != entries_.end()) return found->second.kernel;
  Entry entry{make_kernel(graph, op), {}};
  for (TensorId id : op.inputs)
    if (graph.tensor(id).is_constant()) entry.constants.push_back(graph.tensor(id).data);
  return entries_.emplace(key, std::move(entry)).first->second.kernel;
}

void KernelCache::trim() {
  arenas_->trim();
  const std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();)
    it = it->second.kernel.use_count() == 1 ? entries_.erase(it) : std::next(it);
}

size_t KernelCache::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  size_t total = arenas_->memory_bytes();
  for (const auto& [key, entry] : entries_) total += entry.kernel->memory_bytes();
  return total;
}

}  // namespace piqi
