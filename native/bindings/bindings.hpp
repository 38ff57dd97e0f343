// The parts of the module. Types, errors and the GIL; nothing else happens here.
#pragma once

#include <pybind11/pybind11.h>

namespace piqi::bindings {

using ReleaseGil = pybind11::call_guard<pybind11::gil_scoped_release>;

void bind_graph(pybind11::module_& m);
void bind_board(pybind11::module_& m);
void bind_backends(pybind11::module_& m);
void bind_executor(pybind11::module_& m);
void bind_frame(pybind11::module_& m);

}  // namespace piqi::bindings
