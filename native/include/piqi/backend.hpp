// What prepares and runs sub-graphs on one kind of processor.
#pragma once

#include <pthreadpool.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "piqi/channel.hpp"
#include "piqi/graph.hpp"
#include "piqi/graph_creator.hpp"
#include "piqi/kernel_cache.hpp"

namespace piqi {

/// A sub-graph, ready to run. Used by one thread at a time.
class PreparedSubGraph {
 public:
  virtual ~PreparedSubGraph() = default;
  /// The form in which it takes receiver i and makes sender i.
  virtual Format input_format(size_t i) const = 0;
  virtual Format output_format(size_t i) const = 0;
  /// Memory for receiver i or sender i that the processor reaches without a copy, as an Allocator makes it;
  /// null: any will do. It may outlive the sub-graph.
  virtual std::shared_ptr<uint8_t> input_memory(size_t /*i*/) { return nullptr; }
  virtual std::shared_ptr<uint8_t> output_memory(size_t /*i*/) { return nullptr; }
  /// Names the frame's buffers: dense, aligned, `extra_bytes` readable behind them.
  virtual void bind(const void* const* inputs, void* const* outputs) = 0;
  /// Runs a step; returns when the processor is done with it. Throws BackendError.
  virtual void run_step(size_t step, pthreadpool_t pool) = 0;
  /// After the last step: outputs that the processor holds elsewhere are now in the frame's buffers. Throws
  /// BackendError.
  virtual void finish() {}
  /// Memory of its own, besides what the KernelCache holds.
  virtual size_t memory_bytes() const = 0;
  /// Whether its working memory may be others' between frames (true until told otherwise).
  virtual void share_memory(bool /*shared*/) {}
  /// True for a vendor's library, which may hang: it is then closed under supervision.
  virtual bool may_hang() const { return false; }
  /// Time inside the kernels since the last call, in ns, where the backend can tell it apart from its own.
  virtual void measure_kernels(bool /*enabled*/) {}
  virtual int64_t take_kernel_ns() { return 0; }
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// `cache` shares packed weights and arenas between sub-graphs. Throws UnsupportedError, PartitionError,
  /// BackendError.
  virtual std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                                    const SubGraph& sub_graph, KernelCache& cache) = 0;
  /// True if what it prepares for one of its processors does not do for another.
  virtual bool per_processor() const { return false; }
};

/// float32 operators on CPUs; the partitions of an NPU's sub-graphs in int8 or uint8 (the emulated NPU).
std::shared_ptr<Backend> make_xnnpack_backend();

/// Runs what `backend` prepares and tells a library that exports the functions of piqi/observer.h.
/// `processors`: their letters in the board's order. Throws BackendError where the library cannot be used.
std::shared_ptr<Backend> make_observed_backend(std::shared_ptr<Backend> backend, const std::string& library,
                                               const std::string& processors);

/// An NPU's vendor library, which runs the `vendor_file` of partitions.
class VendorBackend : public Backend {
 public:
  /// The file that was loaded.
  virtual std::string library() const = 0;
  /// "API ..., driver ...", known once a partition was prepared; empty before.
  virtual std::string version() const = 0;
  /// Bytes of inputs and outputs copied between channels and library so far: 0 if all went without a copy.
  virtual uint64_t copied_bytes() const = 0;
  /// Operators that run elsewhere since the library cannot run them: "name: why", each once.
  virtual std::vector<std::string> elsewhere() const { return {}; }
};

struct RknnOptions {
  std::chrono::milliseconds prepare_timeout{60'000};  // to load a partition
  uint32_t core_mask = 0;  // rknn2: 1, 2, 4 or a sum of them; 0: the driver's choice
  bool zero_copy = true;   // rknn2
};

/// Rockchip's NPUs of the first generation (RK1808, RK3399Pro: librknn_api.so) and of the second (RK356x,
/// RK3588: librknnrt.so). Throws BackendError where the library is missing or not of that generation.
std::shared_ptr<VendorBackend> make_rknn1_backend(const std::string& path = "librknn_api.so",
                                                  const RknnOptions& options = {});
std::shared_ptr<VendorBackend> make_rknn2_backend(const std::string& path = "librknnrt.so",
                                                  const RknnOptions& options = {});

/// CPUs on the NEON functions of the Arm Compute Library, in float32; operators that it has none for run on
/// our own kernels. `threads`: the most that a processor on this backend has. Throws BackendError where the
/// library was not there when this one was built.
std::shared_ptr<VendorBackend> make_armcl_neon_backend(size_t threads = 1);

/// A GPU on the Arm Compute Library's OpenCL functions, in float32 or with `half` in float16. Throws
/// BackendError where the library was not built in, or OpenCL, a device or its float16 is missing.
std::shared_ptr<VendorBackend> make_armcl_cl_backend(bool half = false);

}  // namespace piqi
