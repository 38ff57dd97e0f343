// Tensors as NumPy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "piqi/graph.hpp"

namespace piqi::bindings {

/// "float32 (1, 3)", for messages.
std::string describe(const pybind11::array& array);
pybind11::dtype dtype_of(DataType type);
/// Throws GraphError unless the array has the tensor's shape and type and is dense.
void check_array(const pybind11::array& array, const Tensor& tensor);
/// The array as the tensor needs it: of its shape and type, made dense if it is not.
pybind11::array as_array(const pybind11::handle& object, const Tensor& tensor);
pybind11::array empty_array(const Tensor& tensor);

/// The arrays of a frame, in the graph's order, alive while it runs. Throws GraphError.
struct FrameArrays {
  FrameArrays(const Graph& graph, const pybind11::dict& arrays);
  std::vector<pybind11::array> kept;
  std::vector<const void*> pointers;
};

struct ResultArrays {
  explicit ResultArrays(const Graph& graph);
  pybind11::dict arrays;
  std::vector<void*> pointers;
};

/// A frame through a GraphExecutor or an Interpreter.
template <typename Runner>
pybind11::dict run(Runner& runner, const pybind11::dict& inputs) {
  const FrameArrays frame(runner.graph(), inputs);
  ResultArrays results(runner.graph());
  {
    const pybind11::gil_scoped_release release;
    runner.run(frame.pointers.data(), results.pointers.data());
  }
  return results.arrays;
}

}  // namespace piqi::bindings
