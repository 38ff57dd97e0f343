#include "emulator.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

namespace emulator {

using piqi::DataType;
using piqi::element_count;
using piqi::Tensor;

namespace {

std::mutex mutex;
std::map<uint64_t, std::shared_ptr<Context>> contexts;
uint64_t last_handle = 0x1000;

std::string initial() {
  const char* text = std::getenv("PIQI_RKNN_EMULATOR");
  return text ? text : "";
}
std::string configuration = initial();  // under mutex

std::string configured(const std::string& name) {
  const std::lock_guard lock(mutex);
  std::istringstream words(configuration);
  for (std::string word; words >> word;)
    if (word.rfind(name + "=", 0) == 0) return word.substr(name.size() + 1);
  return "";
}

double value_at(const void* data, DataType type, size_t i) {
  switch (type) {
    case DataType::Int8:
      return static_cast<const int8_t*>(data)[i];
    case DataType::UInt8:
      return static_cast<const uint8_t*>(data)[i];
    default:
      return static_cast<const float*>(data)[i];
  }
}

void set_at(void* data, DataType type, size_t i, double value) {
  switch (type) {
    case DataType::Int8:
      static_cast<int8_t*>(data)[i] = static_cast<int8_t>(std::clamp(value, -128.0, 127.0));
      break;
    case DataType::UInt8:
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
      break;
    default:
      static_cast<float*>(data)[i] = static_cast<float>(value);
  }
}

// The place in NHWC of element i in `order`.
size_t place(const Tensor& tensor, Axes order, size_t i) {
  if (tensor.shape.size() != 4 || order == Axes::Nhwc) return i;
  const size_t h = tensor.shape[1], w = tensor.shape[2], c = tensor.shape[3];
  const size_t column = i % w, row = i / w % h, channel = i / (w * h) % c, image = i / (w * h * c);
  return ((image * h + row) * w + column) * c + channel;
}

}  // namespace

std::atomic<int64_t> counters[Counters];

int64_t setting(const char* name) {
  return std::atoll(configured(name).c_str());
}

int fault(const char* call) {
  while (configured(call) == "hang") std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return std::atoi(configured(call).c_str());
}

void configure(const char* text) {
  const std::lock_guard lock(mutex);
  configuration = text;
}

Context::Context(std::shared_ptr<Model> model) : model_(std::move(model)) {
  const auto& graph = model_->network.graph;
  sequence_ = std::make_unique<piqi::OperatorSequence>(graph, piqi::all_operators(*graph), graph->inputs(),
                                                       graph->outputs(), model_->cache);
  for (auto id : graph->inputs())
    input_data_.push_back(buffers_.emplace_back(graph->tensor(id).size_bytes()).data());
  for (auto id : graph->outputs())
    output_data_.push_back(buffers_.emplace_back(graph->tensor(id).size_bytes()).data());
  ++counters[Contexts];
}

Context::~Context() {
  --counters[Contexts];
}

const Tensor& Context::input(size_t i) const {
  return model_->network.graph->tensor(model_->network.graph->inputs()[i]);
}
const Tensor& Context::output(size_t i) const {
  return model_->network.graph->tensor(model_->network.graph->outputs()[i]);
}

int Context::begin(pacer::Kind kind) const {
  const Network& network = model_->network;
  return pacer::present() && pacer::begin(kind, '\0', network.first_layer, network.last_layer) != 0
             ? device_unavailable
             : 0;
}

int Context::end() const {
  return pacer::present() && pacer::end() != 0 ? device_unavailable : 0;
}

int Context::run() {
  const auto began = std::chrono::steady_clock::now();
  if (const int code = begin(pacer::Kind::Step)) return code;
  const std::vector<const void*> inputs(input_data_.begin(), input_data_.end());
  sequence_->bind(inputs.data(), output_data_.data());
  sequence_->run(0, sequence_->size(), nullptr);
  if (const int code = end()) return code;
  std::this_thread::sleep_until(began + std::chrono::microseconds(setting("run_us")));
  run_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began).count();
  ++counters[Runs];
  return 0;
}

int load(const void* data, uint32_t size, const std::vector<std::string>& targets, uint64_t& handle) {
  if (!data || size == 0) return param_invalid;
  try {
    auto model = std::make_shared<Model>();
    model->network = read_network(static_cast<const uint8_t*>(data), size);
    if (model->network.version > 6) return fail;  // what the library says of a file of a newer toolkit
    if (std::find(targets.begin(), targets.end(), model->network.target) == targets.end())
      return target_unmatch;
    handle = add(std::make_shared<Context>(std::move(model)));
    return 0;
  } catch (const std::exception&) {
    return model_invalid;
  }
}

uint64_t add(std::shared_ptr<Context> context) {
  const std::lock_guard lock(mutex);
  contexts[++last_handle] = std::move(context);
  return last_handle;
}

std::shared_ptr<Context> find(uint64_t handle) {
  const std::lock_guard lock(mutex);
  const auto found = contexts.find(handle);
  return found == contexts.end() ? nullptr : found->second;
}

bool drop(uint64_t handle) {
  const std::lock_guard lock(mutex);
  return contexts.erase(handle) == 1;
}

void store(const Tensor& tensor, void* to, const void* from, DataType type, Axes order) {
  const size_t count = element_count(tensor.shape);
  const auto& q = tensor.quantization;
  for (size_t i = 0; i < count; ++i) {
    double value = value_at(from, type, i);
    if (type == DataType::Float32 && !q.scales.empty())
      value = std::nearbyint(value / static_cast<double>(q.scales[0])) + q.zero_point;
    set_at(to, tensor.type, place(tensor, order, i), value);
  }
  counters[CopiedBytes] += static_cast<int64_t>(count * size_of(type));
}

void fetch(const Tensor& tensor, const void* from, void* to, bool as_float, Axes order) {
  const size_t count = element_count(tensor.shape);
  const auto& q = tensor.quantization;
  const DataType type = as_float ? DataType::Float32 : tensor.type;
  for (size_t i = 0; i < count; ++i) {
    double value = value_at(from, tensor.type, place(tensor, order, i));
    if (as_float && !q.scales.empty()) value = (value - q.zero_point) * static_cast<double>(q.scales[0]);
    set_at(to, type, i, value);
  }
  counters[CopiedBytes] += static_cast<int64_t>(count * size_of(type));
}

}  // namespace emulator

PIQI_EXPORT int64_t piqi_emulator_counter(int32_t counter) {
  return emulator::counters[counter];
}

PIQI_EXPORT void piqi_emulator_configure(const char* text) {
  emulator::configure(text);
}
