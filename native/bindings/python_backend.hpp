// A backend written in Python.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "piqi/backend.hpp"

namespace piqi::bindings {

/// `backend.prepare(sub_graph, input_names, output_names) -> prepared`, `prepared.run({name: array}) ->
/// {name: array}`, `prepared.close()`. Arrays are float32 NHWC; those handed to run() are read-only and only
/// valid until it returns. The whole sub-graph runs in its first step. Whatever Python raises becomes a
/// BackendError.
std::shared_ptr<Backend> make_python_backend(pybind11::object backend);

}  // namespace piqi::bindings
