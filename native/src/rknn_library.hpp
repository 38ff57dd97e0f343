// What the backends of both generations of Rockchip's NPU library share: loading it, its error codes, and
// matching a loaded partition's ends with the network's tensors.
#pragma once

#include <dlfcn.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <future>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "piqi/backend.hpp"

namespace piqi::rknn {

enum class Generation { First, Second };

/// Stays loaded for good: the library has threads of its own.
class Library {
 public:
  Library(const char* backend, const std::string& path);
  /// A function of the library. Throws BackendError if it has none of this name.
  template <typename Function>
  Function* need(const char* symbol) const {
    void* found = address(symbol);
    if (!found) missing(symbol);
    return reinterpret_cast<Function*>(found);
  }
  /// The same, or null.
  template <typename Function>
  Function* find(const char* symbol) const {
    return reinterpret_cast<Function*>(address(symbol));
  }
  /// Refuses a library of the other generation, which has the same names for other functions.
  [[noreturn]] void refuse(const std::string& reason) const;
  const std::string& path() const { return path_; }

 private:
  void* address(const char* symbol) const { return dlsym(handle_, symbol); }
  [[noreturn]] void missing(const char* symbol) const;

  const std::string backend_;
  std::string path_;
  void* handle_ = nullptr;
};

/// Name of an error code and its usual cause.
std::string explain(Generation generation, int code);
/// Throws TimeoutError, PartitionError or BackendError, as the code is, unless it says success.
void check(Generation generation, const std::string& where, const char* call, int code);

/// The content of the file that was prepared of a partition. Throws PartitionError.
std::vector<uint8_t> read_vendor_file(const SubGraph& sub_graph);
/// "layers 3 to 5 (vendor/...rknn)"
std::string name_of(const SubGraph& sub_graph);

/// An input or output of a loaded partition, as the library describes it.
struct End {
  uint32_t index = 0;
  std::string name;
  std::vector<size_t> dims;  // outermost first
  bool nchw = false;
  bool quantised =
      false;  // in a form that channels can make: int8 or uint8 with one scale; else float32 is asked for
  Format format;
};

template <typename Attribute>
End make_end(const Attribute& attribute, bool innermost_first);

/// For each tensor the end of its name, whose format gets the layout. Throws PartitionError.
std::vector<End> match(const Graph& graph, const std::vector<TensorId>& tensors, const Partition& partition,
                       const std::vector<End>& ends, const std::string& where, const char* what);

/// Does `work` on a thread that is given up after `patience`; throws TimeoutError then.
template <typename Result>
Result supervised(std::chrono::milliseconds patience, const std::string& what, std::function<Result()> work) {
  std::promise<Result> promise;
  std::future<Result> future = promise.get_future();
  std::thread([work = std::move(work), promise = std::move(promise)]() mutable {
    try {
      promise.set_value(work());
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  }).detach();
  if (future.wait_for(patience) != std::future_status::ready)
    throw TimeoutError(what + ": not loaded within " + std::to_string(patience.count()) +
                       " ms; the NPU may hang until its driver is loaded anew or the board restarted");
  return future.get();
}

/// Throws BackendError for a quantisation that makes no sense.
void set_quantised(End& end, DataType type, float scale, int64_t zero_point);

template <typename Attribute>
End make_end(const Attribute& attribute, bool innermost_first) {
  // The same numbers in both generations.
  constexpr int32_t int8 = 2, uint8 = 3, fixed_point = 1, affine = 2, nchw = 0;
  End end;
  end.index = attribute.index;
  end.name.assign(attribute.name, strnlen(attribute.name, sizeof attribute.name));
  const size_t rank = std::min<size_t>(attribute.n_dims, std::size(attribute.dims));
  end.dims.assign(attribute.dims, attribute.dims + rank);
  if (innermost_first) std::reverse(end.dims.begin(), end.dims.end());
  end.nchw = attribute.order == nchw;
  if (attribute.type == int8 && attribute.quantizing == fixed_point)
    set_quantised(end, DataType::Int8, std::ldexp(1.0F, -attribute.fraction_bits), 0);
  else if ((attribute.type == int8 || attribute.type == uint8) && attribute.quantizing == affine)
    set_quantised(end, attribute.type == int8 ? DataType::Int8 : DataType::UInt8, attribute.scale,
                  static_cast<int32_t>(attribute.zero_point));
  return end;
}

}  // namespace piqi::rknn
