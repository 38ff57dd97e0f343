// The C interface of librknnrt.so (rknpu2: RK356x, RK3588), declared from its published ABI. Names are ours.
#pragma once

#include <cstddef>
#include <cstdint>

namespace piqi::rknn2 {

#ifdef __arm__
using Handle = uint32_t;
#else
using Handle = uint64_t;
#endif

constexpr size_t max_dims = 16;

enum Query : int32_t {
  query_in_out_num = 0,
  query_input = 1,
  query_output = 2,
  query_perf_run = 4,
  query_sdk_version = 5,
  query_native_nhwc_input = 10,
  query_native_nhwc_output = 11,
};
enum Type : int32_t { type_float32 = 0, type_float16, type_int8, type_uint8, type_int16 };
enum Quantizing : int32_t { quantizing_none = 0, quantizing_fixed_point, quantizing_affine };
enum Order : int32_t { order_nchw = 0, order_nhwc, order_nc1hwc2, order_undefined };

struct InOutNum {
  uint32_t inputs, outputs;
};

struct Attribute {
  uint32_t index;
  uint32_t n_dims;
  uint32_t dims[max_dims];
  char name[256];
  uint32_t elements;
  uint32_t size;
  int32_t order, type, quantizing;
  int8_t fraction_bits;
  int32_t zero_point;
  float scale;
  uint32_t width_stride;
  uint32_t size_with_stride;
  uint8_t pass_through;
  uint32_t height_stride;
};
static_assert(sizeof(Attribute) == 376 && offsetof(Attribute, name) == 72 &&
              offsetof(Attribute, elements) == 328 && offsetof(Attribute, order) == 336 &&
              offsetof(Attribute, fraction_bits) == 348 && offsetof(Attribute, zero_point) == 352 &&
              offsetof(Attribute, width_stride) == 360 && offsetof(Attribute, pass_through) == 368 &&
              offsetof(Attribute, height_stride) == 372);

struct PerfRun {
  int64_t duration_us;
};

struct SdkVersion {
  char api[256];
  char driver[256];
};
static_assert(sizeof(SdkVersion) == 512);

struct Memory {
  void* data;
  uint64_t physical;
  int32_t fd;
  int32_t offset;
  uint32_t size;
  uint32_t flags;
  void* internal;
};

struct Input {
  uint32_t index;
  void* data;
  uint32_t size;
  uint8_t pass_through;
  int32_t type, order;
};

struct Output {
  uint8_t want_float;
  uint8_t is_preallocated;
  uint32_t index;
  void* data;
  uint32_t size;
};

#if UINTPTR_MAX == UINT64_MAX
static_assert(sizeof(Memory) == 40 && offsetof(Memory, fd) == 16 && offsetof(Memory, size) == 24 &&
              offsetof(Memory, internal) == 32);
static_assert(sizeof(Input) == 32 && offsetof(Input, data) == 8 && offsetof(Input, size) == 16 &&
              offsetof(Input, pass_through) == 20 && offsetof(Input, type) == 24 &&
              offsetof(Input, order) == 28);
static_assert(sizeof(Output) == 24 && offsetof(Output, is_preallocated) == 1 &&
              offsetof(Output, index) == 4 && offsetof(Output, data) == 8 && offsetof(Output, size) == 16);
#endif

// What rknn_init, rknn_run and rknn_outputs_get may be told besides; null here.
struct InitExtension;
struct RunExtension;
struct OutputExtension;

using Init = int(Handle*, void* model, uint32_t size, uint32_t flags, InitExtension*);
using Duplicate = int(Handle* from, Handle* to);
using Destroy = int(Handle);
using QueryFunction = int(Handle, int32_t query, void* info, uint32_t size);
using InputsSet = int(Handle, uint32_t count, Input*);
using SetCoreMask = int(Handle, int32_t mask);
using Run = int(Handle, RunExtension*);
using OutputsGet = int(Handle, uint32_t count, Output*, OutputExtension*);
using OutputsRelease = int(Handle, uint32_t count, Output*);
using CreateMemory = Memory*(Handle, uint32_t size);
using CreateMemoryFromFd = Memory*(Handle, int32_t fd, void* data, uint32_t size, int32_t offset);
using DestroyMemory = int(Handle, Memory*);
using SetIoMemory = int(Handle, Memory*, Attribute*);

}  // namespace piqi::rknn2
