// The backends that come with the library.
#include <pybind11/stl.h>

#include <string>

#include "bindings.hpp"
#include "piqi/backend.hpp"
#include "seconds.hpp"

namespace py = pybind11;

namespace piqi::bindings {

void bind_backends(py::module_& m) {
  py::classh<Backend>(m, "NativeBackend");
  m.def("xnnpack_backend", &make_xnnpack_backend);
  m.def("observed_backend", &make_observed_backend, py::arg("backend").none(false), py::arg("observer"),
        py::arg("processors"), ReleaseGil());
  py::classh<VendorBackend, Backend>(m, "VendorBackend")
      .def_property_readonly("library", &VendorBackend::library)
      .def_property_readonly("version", &VendorBackend::version)
      .def_property_readonly("copied_bytes", &VendorBackend::copied_bytes)
      .def_property_readonly("elsewhere", &VendorBackend::elsewhere);
  m.def(
      "rknn1_backend",
      [](const std::string& path, double prepare_timeout_s) {
        RknnOptions options;
        options.prepare_timeout = milliseconds("prepare_timeout_s", prepare_timeout_s);
        return make_rknn1_backend(path, options);
      },
      py::arg("path") = "librknn_api.so", py::arg("prepare_timeout_s") = 60.0, ReleaseGil());
  m.def(
      "rknn2_backend",
      [](const std::string& path, uint32_t core_mask, bool zero_copy, double prepare_timeout_s) {
        RknnOptions options;
        options.prepare_timeout = milliseconds("prepare_timeout_s", prepare_timeout_s);
        options.core_mask = core_mask;
        options.zero_copy = zero_copy;
        return make_rknn2_backend(path, options);
      },
      py::arg("path") = "librknnrt.so", py::arg("core_mask") = 0, py::arg("zero_copy") = true,
      py::arg("prepare_timeout_s") = 60.0, ReleaseGil());
  m.def("armcl_neon_backend", &make_armcl_neon_backend, py::arg("threads") = 1, ReleaseGil());
  m.def("armcl_cl_backend", &make_armcl_cl_backend, py::arg("half") = false, ReleaseGil());
}

}  // namespace piqi::bindings
