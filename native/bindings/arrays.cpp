#include "arrays.hpp"

#include <algorithm>
#include <utility>

namespace py = pybind11;

namespace piqi::bindings {

std::string describe(const py::array& array) {
  return py::str(array.dtype()).cast<std::string>() + " " + py::str(array.attr("shape")).cast<std::string>();
}

py::dtype dtype_of(DataType type) {
  return py::dtype(std::string(to_string(type)));
}

void check_array(const py::array& array, const Tensor& tensor) {
  const bool same_shape =
      std::equal(tensor.shape.begin(), tensor.shape.end(), array.shape(), array.shape() + array.ndim(),
                 [](size_t a, py::ssize_t b) { return static_cast<py::ssize_t>(a) == b; });
  if (!same_shape || !array.dtype().equal(dtype_of(tensor.type)) || !(array.flags() & py::array::c_style))
    throw GraphError("tensor '" + tensor.name + "': expected dense " + to_string(tensor.type) + " " +
                     to_string(tensor.shape) + ", got " + describe(array));
}

py::array as_array(const py::handle& object, const Tensor& tensor) {
  py::array array = py::array::ensure(object, py::array::c_style);
  if (!array) throw GraphError("tensor '" + tensor.name + "': expected an array");
  check_array(array, tensor);
  return array;
}

py::array empty_array(const Tensor& tensor) {
  return py::array(dtype_of(tensor.type), std::vector<py::ssize_t>(tensor.shape.begin(), tensor.shape.end()));
}

FrameArrays::FrameArrays(const Graph& graph, const py::dict& arrays) {
  if (arrays.size() != graph.inputs().size())
    throw GraphError(graph.name() + " has " + std::to_string(graph.inputs().size()) + " inputs, got " +
                     std::to_string(arrays.size()));
  for (TensorId id : graph.inputs()) {
    const Tensor& tensor = graph.tensor(id);
    if (!arrays.contains(tensor.name))
      throw GraphError(graph.name() + ": input '" + tensor.name + "' is missing");
    kept.push_back(as_array(arrays[tensor.name.c_str()], tensor));
    pointers.push_back(kept.back().data());
  }
}

ResultArrays::ResultArrays(const Graph& graph) {
  for (TensorId id : graph.outputs()) {
    const Tensor& tensor = graph.tensor(id);
    py::array array = empty_array(tensor);
    pointers.push_back(array.mutable_data());
    arrays[tensor.name.c_str()] = std::move(array);
  }
}

}  // namespace piqi::bindings
