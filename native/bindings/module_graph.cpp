// Graphs, the interpreter, masks, partitions.
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>

#include "arrays.hpp"
#include "bindings.hpp"
#include "piqi/interpreter.hpp"
#include "piqi/mask_evaluator.hpp"
#include "piqi/partition.hpp"

namespace py = pybind11;

namespace piqi::bindings {
namespace {

DataType data_type(const std::string& name) {
  for (DataType type : {DataType::Float32, DataType::Int8, DataType::UInt8, DataType::Int32})
    if (name == to_string(type)) return type;
  throw GraphError("unknown data type '" + name + "'");
}

// Keeps a NumPy array alive from C++, whichever thread lets go of it last.
std::shared_ptr<const void> share(const py::array& array) {
  const void* data = array.data();
  return {data, [handle = array.cast<py::object>().release().ptr()](const void*) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            Py_DECREF(handle);
          }};
}

TensorId add_tensor(Graph& graph, const std::string& name, const Shape& shape, const std::string& type,
                    const std::optional<py::array>& data, std::vector<float> scales, int32_t zero_point) {
  Tensor tensor;
  tensor.name = name;
  tensor.shape = shape;
  tensor.type = data_type(type);
  tensor.quantization = {std::move(scales), zero_point};
  if (data) {
    check_array(*data, tensor);
    tensor.data = share(*data);
  }
  return graph.add_tensor(std::move(tensor));
}

OperatorParameters parameters(const py::kwargs& attributes) {
  OperatorParameters p;
  for (const auto& [key, value] : attributes) {
    const auto name = key.cast<std::string>();
    const auto set = [&, v = value](const char* field, auto& target) {
      if (name != field) return false;
      try {
        target = v.template cast<std::decay_t<decltype(target)>>();
      } catch (const py::cast_error&) {
        throw GraphError("attribute " + name + " = " + py::repr(v).cast<std::string>() +
                         " is not of its type");
      }
      return true;
    };
#define PIQI_FIELD(field) set(#field, p.field)
    if (PIQI_FIELD(stride_height) || PIQI_FIELD(stride_width) || PIQI_FIELD(dilation_height) ||
        PIQI_FIELD(dilation_width) || PIQI_FIELD(pad_top) || PIQI_FIELD(pad_left) || PIQI_FIELD(pad_bottom) ||
        PIQI_FIELD(pad_right) || PIQI_FIELD(kernel_height) || PIQI_FIELD(kernel_width) ||
        PIQI_FIELD(groups) || PIQI_FIELD(clamp_min) || PIQI_FIELD(clamp_max) || PIQI_FIELD(axis) ||
        PIQI_FIELD(axes) || PIQI_FIELD(alpha) || PIQI_FIELD(beta) || PIQI_FIELD(bias) || PIQI_FIELD(radius) ||
        PIQI_FIELD(align_corners) || PIQI_FIELD(half_pixel_centers) || PIQI_FIELD(pad_before) ||
        PIQI_FIELD(pad_after) || PIQI_FIELD(pad_value) || PIQI_FIELD(begin) || PIQI_FIELD(size) ||
        PIQI_FIELD(strides))
      continue;
#undef PIQI_FIELD
    throw GraphError("unknown attribute '" + name + "'");
  }
  return p;
}

OperatorId add_operator(Graph& graph, const std::string& kind, const std::string& name,
                        std::vector<TensorId> inputs, std::vector<TensorId> outputs, size_t layer,
                        const py::kwargs& attributes) {
  return graph.add_operator(
      {name, operator_kind(kind), std::move(inputs), std::move(outputs), parameters(attributes), layer});
}

std::vector<std::string> names(const Graph& graph, const std::vector<TensorId>& ids) {
  std::vector<std::string> found;
  for (TensorId id : ids) found.push_back(graph.tensor(id).name);
  return found;
}

using Masks = py::array_t<bool, py::array::c_style | py::array::forcecast>;

void evaluate_masks(MaskEvaluator& evaluator, const py::dict& inputs, const Masks& masks,
                    const py::function& on_outputs) {
  const Graph& graph = evaluator.graph();
  if (masks.ndim() != 2 || static_cast<size_t>(masks.shape(1)) != graph.layer_count())
    throw GraphError(graph.name() + ": masks must have the shape [n, " + std::to_string(graph.layer_count()) +
                     "]");
  const FrameArrays frame(graph, inputs);
  static_assert(sizeof(bool) == 1);
  const auto* bits = reinterpret_cast<const uint8_t*>(masks.data());
  const auto leaf = [&](size_t mask, const void* const* outputs) {
    const py::gil_scoped_acquire gil;
    ResultArrays results(graph);
    for (size_t i = 0; i < results.pointers.size(); ++i)
      std::memcpy(results.pointers[i], outputs[i], graph.tensor(graph.outputs()[i]).size_bytes());
    on_outputs(mask, results.arrays);
  };
  const py::gil_scoped_release release;
  evaluator.run(frame.pointers.data(), bits, static_cast<size_t>(masks.shape(0)), leaf);
}

py::array activation(const Interpreter& interpreter, const std::string& name) {
  const Tensor& tensor = interpreter.graph().tensor(interpreter.graph().find_tensor(name));
  const void* data = interpreter.data(interpreter.graph().find_tensor(name));
  if (!data) throw GraphError("'" + name + "' has no data: a constant, or the interpreter does not keep it");
  py::array array = empty_array(tensor);
  std::memcpy(array.mutable_data(), data, tensor.size_bytes());
  return array;
}

}  // namespace

void bind_graph(py::module_& m) {
  py::classh<Graph>(m, "Graph")
      .def(py::init<std::string>(), py::arg("name"))
      .def("add_tensor", &add_tensor, py::arg("name"), py::arg("shape"), py::arg("dtype"),
           py::arg("data") = py::none(), py::arg("scales") = std::vector<float>{}, py::arg("zero_point") = 0)
      .def("add_operator", &add_operator, py::arg("kind"), py::arg("name"), py::arg("inputs"),
           py::arg("outputs"), py::arg("layer"))
      .def("add_input", &Graph::add_input, py::arg("tensor"))
      .def("add_output", &Graph::add_output, py::arg("tensor"))
      .def("finish", &Graph::finish)
      .def_property_readonly("name", &Graph::name)
      .def_property_readonly("layer_count", &Graph::layer_count)
      .def_property_readonly("inputs", [](const Graph& graph) { return names(graph, graph.inputs()); })
      .def_property_readonly("outputs", [](const Graph& graph) { return names(graph, graph.outputs()); });

  py::classh<Interpreter>(m, "Interpreter")
      .def(py::init([](std::shared_ptr<Graph> graph, size_t threads, bool keep_all) {
             const py::gil_scoped_release release;
             return std::make_unique<Interpreter>(std::move(graph), threads, keep_all);
           }),
           py::arg("graph").none(false), py::arg("threads") = 1, py::arg("keep_all") = false)
      .def("run", &run<Interpreter>, py::arg("inputs"))
      .def("activation", &activation, py::arg("name"))
      .def_property_readonly("memory_bytes", &Interpreter::memory_bytes);

  py::classh<MaskEvaluator>(m, "MaskEvaluator")
      .def(py::init([](std::shared_ptr<Graph> exact, std::shared_ptr<Graph> quantised, size_t threads) {
             const py::gil_scoped_release release;
             return std::make_unique<MaskEvaluator>(std::move(exact), std::move(quantised), threads);
           }),
           py::arg("exact").none(false), py::arg("quantised").none(false), py::arg("threads") = 1)
      .def("evaluate", &evaluate_masks, py::arg("inputs"), py::arg("masks"), py::arg("on_outputs"))
      .def_property_readonly("memory_bytes", &MaskEvaluator::memory_bytes);

  py::classh<Partition>(m, "Partition")
      .def(py::init([](std::shared_ptr<Graph> graph, size_t first_layer, size_t last_layer,
                       std::string checksum, std::string vendor_file,
                       std::map<std::string, std::string> vendor_names) {
             return Partition{first_layer,         last_layer,
                              std::move(graph),    std::move(vendor_file),
                              std::move(checksum), std::move(vendor_names)};
           }),
           py::arg("graph"), py::arg("first_layer"), py::arg("last_layer"), py::arg("checksum"),
           py::arg("vendor_file") = "", py::arg("vendor_names") = std::map<std::string, std::string>{})
      .def_readonly("first_layer", &Partition::first_layer)
      .def_readonly("last_layer", &Partition::last_layer)
      .def_readonly("checksum", &Partition::checksum)
      .def_property_readonly("graph",
                             [](const Partition& p) { return std::const_pointer_cast<Graph>(p.graph); })
      .def_readonly("vendor_file", &Partition::vendor_file);
}

}  // namespace piqi::bindings
