// A libOpenCL.so before the system's, for tests: whatever the device, it says that it is one for which the
// Arm Compute Library 20.08 compiles its kernels (OpenCL 1.2, work groups that need not be uniform, float16).
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "opencl_float16.hpp"

namespace {

using Handle = void*;
constexpr unsigned device_version = 0x102F, device_extensions = 0x1030, opencl_c_version = 0x103D;

template <typename Function>
Function real(const char* name) {
  static void* const library = dlopen("libOpenCL.so.1", RTLD_LAZY);
  return library ? reinterpret_cast<Function>(dlsym(library, name)) : nullptr;
}

int answer(const std::string& text, size_t room, void* value, size_t* size) {
  constexpr int invalid_value = -30;
  if (value && room < text.size() + 1) return invalid_value;
  if (value) std::memcpy(value, text.c_str(), text.size() + 1);
  if (size) *size = text.size() + 1;
  return 0;
}

void replace(std::string& text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

}  // namespace

extern "C" {

// Cases of failure: PIQI_NO_PLATFORM, PIQI_PLAIN_DEVICE (PoCL's own version), PIQI_NO_FLOAT16.
int clGetPlatformIDs(unsigned room, Handle* platforms, unsigned* count) {
  constexpr int none_found = -1001;
  if (std::getenv("PIQI_NO_PLATFORM")) return none_found;
  return real<int (*)(unsigned, Handle*, unsigned*)>("clGetPlatformIDs")(room, platforms, count);
}

int clGetDeviceInfo(Handle device, unsigned what, size_t room, void* value, size_t* size) {
  const auto next = real<int (*)(Handle, unsigned, size_t, void*, size_t*)>("clGetDeviceInfo");
  if (std::getenv("PIQI_PLAIN_DEVICE")) return next(device, what, room, value, size);
  if (what == device_version) return answer("OpenCL 1.2 test", room, value, size);
  if (what == opencl_c_version) return answer("OpenCL C 1.2 test", room, value, size);
  if (what != device_extensions) return next(device, what, room, value, size);
  size_t length = 0;
  if (const int error = next(device, what, 0, nullptr, &length)) return error;
  std::string extensions(length, ' ');
  if (const int error = next(device, what, length, extensions.data(), nullptr)) return error;
  extensions.resize(std::strlen(extensions.c_str()));
  extensions += " cl_arm_non_uniform_work_group_size";
  if (!std::getenv("PIQI_NO_FLOAT16")) extensions += " cl_khr_fp16";
  return answer(extensions, room, value, size);
}

Handle clCreateProgramWithSource(Handle context, unsigned count, const char** texts, const size_t* lengths,
                                 int* error) {
  const auto next =
      real<Handle (*)(Handle, unsigned, const char**, const size_t*, int*)>("clCreateProgramWithSource");
  // tanh is a macro of PoCL's.
  std::string source = std::string(float16_source) + "#define _cl_tanh_op tanh_op\n";
  for (unsigned i = 0; i < count; ++i)
    source += lengths && lengths[i] != 0 ? std::string(texts[i], lengths[i]) : std::string(texts[i]);
  replace(source, "0.0h", "0.0f");  // such constants need cl_khr_fp16
  // The resizing kernels divide an index by 0 and multiply the quotient by a step of 0. PoCL's compiler takes
  // that as never reached and leaves out all of the kernel.
  replace(source, "name##_stride_w, 0, mod_size)", "name##_stride_w, 0, 1)");
  const char* text = source.c_str();
  return next(context, 1, &text, nullptr, error);
}

int clBuildProgram(Handle program, unsigned count, const Handle* devices, const char* options,
                   void (*notify)(Handle, void*), void* data) {
  const auto next =
      real<int (*)(Handle, unsigned, const Handle*, const char*, void (*)(Handle, void*), void*)>(
          "clBuildProgram");
  std::string kept = options ? options : "";
  replace(kept, "-cl-arm-non-uniform-work-group-size", "");
  return next(program, count, devices, kept.c_str(), notify, data);
}

int clEnqueueNDRangeKernel(Handle queue, Handle kernel, unsigned dimensions, const size_t* offset,
                           const size_t* global, const size_t* local, unsigned events, const Handle* wait,
                           Handle* event) {
  const auto next = real<int (*)(Handle, Handle, unsigned, const size_t*, const size_t*, const size_t*,
                                 unsigned, const Handle*, Handle*)>("clEnqueueNDRangeKernel");
  for (unsigned i = 0; local && i < dimensions; ++i)
    if (global[i] % local[i] != 0) local = nullptr;  // as it likes
  return next(queue, kernel, dimensions, offset, global, local, events, wait, event);
}

}  // extern "C"
