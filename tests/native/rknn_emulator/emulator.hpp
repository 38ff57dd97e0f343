// An NPU behind the C interface of Rockchip's libraries: the emulated NPU, with failures on request.
//
// piqi_emulator_configure("rknn_run=-3 rknn_init=hang run_us=500") says what calls do, from now on: give an
// error code, or hang for as long as that is so. `run_us`: how long a run takes at least; `stride`: rows are
// padded to a multiple; `old`: without the queries that are newer. At first it is what the variable
// PIQI_RKNN_EMULATOR says. Where the variable PIQI_PACER names a simulated board, that says how long calls
// take.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "network_file.hpp"
#include "pacer.hpp"
#include "piqi/aligned_buffer.hpp"
#include "piqi/kernel_cache.hpp"
#include "piqi/operator_sequence.hpp"

#define PIQI_EXPORT extern "C" __attribute__((visibility("default")))

namespace emulator {

enum Error {
  fail = -1,
  device_unavailable = -3,
  param_invalid = -5,
  model_invalid = -6,
  context_invalid = -7,
  target_unmatch = -13
};
enum class Axes { Nchw, Nhwc };

/// What the tests look at.
enum Counter {
  Runs,
  Contexts,
  Twins,
  Memories,
  Imports,
  IoMemoriesSet,
  PassedThrough,
  CopiedBytes,
  Counters
};
extern std::atomic<int64_t> counters[Counters];

/// What a call is to give: 0 or an error code. Comes back only when a hang is over.
int fault(const char* call);
int64_t setting(const char* name);
void configure(const char* text);

struct Model {
  Network network;
  piqi::KernelCache cache;
};

/// A loaded model. Buffers are NHWC in the model's own types.
class Context {
 public:
  explicit Context(std::shared_ptr<Model> model);
  ~Context();

  const std::shared_ptr<Model>& model() const { return model_; }
  const piqi::Tensor& input(size_t i) const;
  const piqi::Tensor& output(size_t i) const;
  size_t input_count() const { return model_->network.inputs.size(); }
  size_t output_count() const { return model_->network.outputs.size(); }

  /// Own buffers or, once set, others'.
  void* input_data(size_t i) { return input_data_[i]; }
  void* output_data(size_t i) { return output_data_[i]; }
  void use_input(size_t i, void* data) { input_data_[i] = data; }
  void use_output(size_t i, void* data) { output_data_[i] = data; }

  int run();
  int64_t run_us = 0;
  /// On a simulated board: tells it what begins (what ends, waits). An error code, or 0.
  int begin(pacer::Kind kind) const;
  int end() const;

 private:
  const std::shared_ptr<Model> model_;
  std::unique_ptr<piqi::OperatorSequence> sequence_;
  std::vector<piqi::AlignedBuffer> buffers_;
  std::vector<void*> input_data_, output_data_;
};

/// An error code, or 0 and the context's handle.
int load(const void* data, uint32_t size, const std::vector<std::string>& targets, uint64_t& handle);
uint64_t add(std::shared_ptr<Context> context);
/// Null for a handle that is not one.
std::shared_ptr<Context> find(uint64_t handle);
bool drop(uint64_t handle);

/// Converts to or from a tensor's own form; counted as a copy.
void store(const piqi::Tensor& tensor, void* to, const void* from, piqi::DataType type, Axes order);
void fetch(const piqi::Tensor& tensor, const void* from, void* to, bool as_float, Axes order);

}  // namespace emulator
