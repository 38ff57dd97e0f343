// Camera frames into tensors.
#include <pybind11/stl.h>

#include <string>

#include "arrays.hpp"
#include "bindings.hpp"
#include "piqi/frame.hpp"

namespace py = pybind11;

namespace piqi::bindings {
namespace {

// Bytes of whatever has some, in one piece; the owner cannot release or resize them meanwhile.
struct Bytes {
  explicit Bytes(const py::object& owner) {
    if (PyObject_GetBuffer(owner.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~Bytes() { PyBuffer_Release(&view); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  Py_buffer view{};
};

size_t frame_size(const char* field, int64_t value) {
  if (value < 0)
    throw FrameError(std::string("frame: ") + field + " must not be negative, got " + std::to_string(value));
  return static_cast<size_t>(value);
}

void convert_frame(const py::object& source, int64_t width, int64_t height, int64_t stride,
                   const std::string& format, py::array& destination, const std::string& preprocessing_name,
                   const std::string& fit_name, const std::string& colour_name) {
  // Each thread keeps what depends on the sizes of its frames.
  thread_local FrameConverter converter;
  FrameInput input;
  input.preprocessing = preprocessing(preprocessing_name);
  input.fit = fit(fit_name);
  input.colour = colour(colour_name);
  if (!destination.dtype().is(py::dtype::of<float>()) || destination.ndim() != 4 ||
      destination.shape(0) != 1 || destination.shape(3) != static_cast<py::ssize_t>(input.channels()) ||
      !(destination.flags() & py::array::c_style) || !destination.writeable())
    throw FrameError("frame: destination must be a writeable C-contiguous float32 array [1, H, W, " +
                     std::to_string(input.channels()) + "], got " + describe(destination));
  input.height = static_cast<size_t>(destination.shape(1));
  input.width = static_cast<size_t>(destination.shape(2));
  auto* floats = static_cast<float*>(destination.mutable_data());
  const Bytes bytes(source);
  const FrameView frame{static_cast<const uint8_t*>(bytes.view.buf),
                        static_cast<size_t>(bytes.view.len),
                        frame_size("width", width),
                        frame_size("height", height),
                        frame_size("stride", stride),
                        pixel_format(format)};
  const py::gil_scoped_release release;
  converter.convert(frame, input, floats);
}

}  // namespace

void bind_frame(py::module_& m) {
  m.def("convert_frame", &convert_frame, py::arg("source"), py::arg("width"), py::arg("height"),
        py::arg("stride"), py::arg("format"), py::arg("destination").noconvert(), py::arg("preprocessing"),
        py::arg("fit"), py::arg("colour"));
}

}  // namespace piqi::bindings
