// A backend written in Python, and the conversions between tensors and NumPy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>

#include "piqi/backend.hpp"

namespace piqi::bindings {

pybind11::dtype dtype_of(DataType type);
/// Throws GraphError unless the array has the tensor's shape and type and is dense.
void check_array(const pybind11::array& array, const Tensor& tensor);
/// The array as the tensor needs it: of its shape and type, made dense if it is not.
pybind11::array as_array(const pybind11::handle& object, const Tensor& tensor);
pybind11::array empty_array(const Tensor& tensor);

/// `backend.prepare(sub_graph, input_names, output_names) -> prepared`, `prepared.run({name: array}) ->
/// {name: array}`, `prepared.close()`. Arrays are float32 NHWC; those handed to run() are read-only and only
/// valid until it returns. The whole sub-graph runs in its first step. Whatever Python raises becomes a
/// BackendError.
std::shared_ptr<Backend> make_python_backend(pybind11::object backend);

}  // namespace piqi::bindings
