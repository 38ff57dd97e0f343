// Python bindings: types, errors and the GIL; nothing else happens here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <map>
#include <string>

#include "piqi/board.hpp"
#include "piqi/frame.hpp"
#include "piqi/graph_executor.hpp"
#include "piqi/interpreter.hpp"
#include "piqi/mask_evaluator.hpp"
#include "piqi/version.hpp"
#include "python_backend.hpp"

namespace py = pybind11;
using namespace piqi;
using namespace piqi::bindings;
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

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

// The arrays of a frame, in the graph's order, alive while it runs.
struct Frame {
  Frame(const Graph& graph, const py::dict& arrays) {
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
  std::vector<py::array> kept;
  std::vector<const void*> pointers;
};

struct Results {
  explicit Results(const Graph& graph) {
    for (TensorId id : graph.outputs()) {
      const Tensor& tensor = graph.tensor(id);
      py::array array = empty_array(tensor);
      pointers.push_back(array.mutable_data());
      arrays[tensor.name.c_str()] = std::move(array);
    }
  }
  py::dict arrays;
  std::vector<void*> pointers;
};

py::dict run_executor(GraphExecutor& executor, const py::dict& inputs) {
  const Frame frame(executor.graph(), inputs);
  Results results(executor.graph());
  {
    const py::gil_scoped_release release;
    executor.run(frame.pointers.data(), results.pointers.data());
  }
  return results.arrays;
}

void submit(GraphExecutor& executor, const py::dict& inputs) {
  const Frame frame(executor.graph(), inputs);
  const py::gil_scoped_release release;
  executor.submit(frame.pointers.data());
}

py::dict receive(GraphExecutor& executor) {
  Results results(executor.graph());
  {
    const py::gil_scoped_release release;
    executor.receive(results.pointers.data());
  }
  return results.arrays;
}

py::array_t<int64_t> rows(const std::vector<int64_t>& values, size_t width) {
  py::array_t<int64_t> array({values.size() / width, width});
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

py::dict times(const GraphExecutor& executor) {
  ExecutorTimes times;
  {
    const py::gil_scoped_release release;
    times = executor.times();
  }
  py::list sub_graphs;
  for (size_t i = 0; i < times.sub_graphs.size(); ++i) {
    const SubGraph& sub_graph = executor.cut().sub_graphs[i];
    sub_graphs.append(
        rows(times.sub_graphs[i], 3 * sub_graph.receivers.size() + 2 + 4 * sub_graph.steps.size() + 1));
  }
  py::dict result;
  result["sub_graphs"] = sub_graphs;
  result["frames"] = rows(times.frames, 2);
  return result;
}

py::dict run_interpreter(Interpreter& interpreter, const py::dict& inputs) {
  const Frame frame(interpreter.graph(), inputs);
  Results results(interpreter.graph());
  {
    const py::gil_scoped_release release;
    interpreter.run(frame.pointers.data(), results.pointers.data());
  }
  return results.arrays;
}

using Masks = py::array_t<bool, py::array::c_style | py::array::forcecast>;

void evaluate_masks(MaskEvaluator& evaluator, const py::dict& inputs, const Masks& masks,
                    const py::function& on_outputs) {
  const Graph& graph = evaluator.graph();
  if (masks.ndim() != 2 || static_cast<size_t>(masks.shape(1)) != graph.layer_count())
    throw GraphError(graph.name() + ": masks must have the shape [n, " + std::to_string(graph.layer_count()) +
                     "]");
  const Frame frame(graph, inputs);
  static_assert(sizeof(bool) == 1);
  const auto* bits = reinterpret_cast<const uint8_t*>(masks.data());
  const auto leaf = [&](size_t mask, const void* const* outputs) {
    const py::gil_scoped_acquire gil;
    Results results(graph);
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
                     std::to_string(input.channels()) + "], got " +
                     py::str(destination.dtype()).cast<std::string>() + " " +
                     py::str(destination.attr("shape")).cast<std::string>());
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

void bind_errors(py::module_& m) {
  // The most general first: pybind11 tries the last registered first.
  static py::exception<Error> error(m, "Error", PyExc_RuntimeError);
  static py::exception<GraphError> graph(m, "GraphError", error.ptr());
  static py::exception<UnsupportedError> unsupported(m, "UnsupportedError", graph.ptr());
  static py::exception<PlanError> plan(m, "PlanError", error.ptr());
  static py::exception<PartitionError> partition(m, "PartitionError", error.ptr());
  static py::exception<BackendError> backend(m, "BackendError", error.ptr());
  static py::exception<piqi::TimeoutError> timeout(m, "TimeoutError", backend.ptr());
  static py::exception<ClosedError> closed(m, "ClosedError", error.ptr());
  static py::exception<DeviceError> device(m, "DeviceError", error.ptr());
  static py::exception<FrameError> frame(m, "FrameError", error.ptr());
  py::register_exception_translator([](std::exception_ptr pointer) {
    if (!pointer) return;
    const auto raise = [](const py::object& type, const std::exception& e) { py::set_error(type, e.what()); };
    try {
      std::rethrow_exception(pointer);
    } catch (const UnsupportedError& e) {
      raise(unsupported, e);
    } catch (const GraphError& e) {
      raise(graph, e);
    } catch (const PlanError& e) {
      raise(plan, e);
    } catch (const PartitionError& e) {
      raise(partition, e);
    } catch (const piqi::TimeoutError& e) {
      raise(timeout, e);
    } catch (const BackendError& e) {
      raise(backend, e);
    } catch (const ClosedError& e) {
      raise(closed, e);
    } catch (const DeviceError& e) {
      raise(device, e);
    } catch (const FrameError& e) {
      raise(frame, e);
    } catch (const Error& e) {
      raise(error, e);
    }
  });
}

char letter(const std::string& text, const char* field, bool optional) {
  if (text.size() == 1) return text[0];
  if (text.empty() && optional) return '\0';
  throw PlanError(std::string("processor ") + field + " '" + text + "' is not one letter");
}

Processor make_processor(const std::string& name, const std::string& kind, std::string backend,
                         std::vector<int> cpus, size_t threads, const std::string& host,
                         std::vector<uint64_t> freqs_khz, std::string sysfs_path,
                         std::vector<uint64_t> delays_us) {
  Processor p;
  p.letter = letter(name, "letter", false);
  if (kind == "cpu")
    p.kind = ProcessorKind::Cpu;
  else if (kind == "gpu")
    p.kind = ProcessorKind::Gpu;
  else if (kind == "npu")
    p.kind = ProcessorKind::Npu;
  else
    throw PlanError("processor " + name + ": kind '" + kind + "' is not cpu, gpu or npu");
  p.backend = std::move(backend);
  p.cpus = std::move(cpus);
  p.threads = threads;
  p.host = letter(host, "host", true);
  p.freqs_khz = std::move(freqs_khz);
  p.sysfs_path = std::move(sysfs_path);
  p.delays_us = std::move(delays_us);
  return p;
}

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
      .def("run", &run_interpreter, py::arg("inputs"))
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

void bind_board(py::module_& m) {
  py::classh<Processor>(m, "Processor")
      .def(py::init(&make_processor), py::arg("letter"), py::arg("kind"), py::arg("backend"), py::arg("cpus"),
           py::arg("threads"), py::arg("host") = "", py::arg("freqs_khz") = std::vector<uint64_t>{},
           py::arg("sysfs_path") = "", py::arg("delays_us") = std::vector<uint64_t>{})
      .def_property_readonly("letter", [](const Processor& p) { return std::string(1, p.letter); })
      .def_readonly("backend", &Processor::backend)
      .def_readonly("freqs_khz", &Processor::freqs_khz);

  py::classh<Board>(m, "Board")
      .def(py::init<std::string, std::vector<Processor>>(), py::arg("name"), py::arg("processors"))
      .def_property_readonly("name", &Board::name)
      .def_property_readonly("processors", &Board::processors);

  py::classh<Plan>(m, "Plan")
      .def(py::init<const Board&, size_t, std::string, const std::string&>(), py::arg("board"),
           py::arg("layer_count"), py::arg("order"), py::arg("freqs") = "")
      .def_property_readonly("order", &Plan::order)
      .def_property_readonly("freqs", &Plan::freqs)
      .def_property_readonly("npu_ranges", &Plan::npu_ranges);

  py::classh<Governor>(m, "Governor")
      .def("request", &Governor::request, py::arg("domain"), py::arg("index"), ReleaseGil())
      .def("controls", &Governor::controls, py::arg("domain"))
      .def(
          "in_force",
          [](const Governor& governor, size_t domain) {
            const size_t index = governor.in_force(domain);
            return index == Governor::unknown ? std::nullopt : std::optional<size_t>(index);
          },
          py::arg("domain"))
      .def("restore", &Governor::restore, ReleaseGil())
      .def_property_readonly("warnings", &Governor::warnings);
  m.def(
      "sysfs_governor",
      [](const Board& board, const std::string& root) {
        return make_sysfs_governor(board.frequency_domains(), root);
      },
      py::arg("board"), py::arg("root") = "/", ReleaseGil());
  m.def(
      "null_governor", [](const Board& board) { return make_null_governor(board.frequency_domains()); },
      py::arg("board"));
  py::classh<PowerMarker>(m, "PowerMarker").def("mark", &PowerMarker::mark, py::arg("layer"), ReleaseGil());
  m.def("null_marker", &make_null_marker);
  m.def("gpio_marker", &make_gpio_marker, py::arg("device"), py::arg("line"), ReleaseGil());
  m.def("sysfs_gpio_marker", &make_sysfs_gpio_marker, py::arg("path"), ReleaseGil());
}

// Names and sizes of the tensors that enter or leave each sub-graph.
std::vector<std::vector<std::pair<std::string, size_t>>> crossing(const GraphExecutor& executor,
                                                                  std::vector<TensorId> SubGraph::*ends) {
  std::vector<std::vector<std::pair<std::string, size_t>>> all;
  for (const SubGraph& sub_graph : executor.cut().sub_graphs) {
    all.emplace_back();
    for (TensorId id : sub_graph.*ends)
      all.back().emplace_back(executor.graph().tensor(id).name, executor.graph().tensor(id).size_bytes());
  }
  return all;
}

std::chrono::milliseconds milliseconds(const char* name, double seconds) {
  if (!(seconds >= 0 && seconds <= 1e6))
    throw PlanError(std::string(name) + " must be between 0 and 1e6, got " + std::to_string(seconds));
  return std::chrono::milliseconds(static_cast<int64_t>(1e3 * seconds));
}

void bind_backends(py::module_& m) {
  py::classh<Backend>(m, "NativeBackend");
  m.def("xnnpack_backend", &make_xnnpack_backend);
  m.def("observed_backend", &make_observed_backend, py::arg("backend").none(false), py::arg("observer"),
        py::arg("processors"), ReleaseGil());
}

void bind_vendor_backends(py::module_& m) {
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
}

void bind_arm_backends(py::module_& m) {
  m.def("armcl_neon_backend", &make_armcl_neon_backend, py::arg("threads") = 1, ReleaseGil());
  m.def("armcl_cl_backend", &make_armcl_cl_backend, py::arg("half") = false, ReleaseGil());
}

void bind_executor(py::module_& m) {
  py::classh<GraphManager>(m, "GraphManager", py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](std::shared_ptr<Graph> graph, std::shared_ptr<Board> board,
                       const py::dict& python_backends) {
             GraphManager::Backends backends{{"xnnpack", make_xnnpack_backend()}};
             for (const auto& [name, backend] : python_backends)
               backends[name.cast<std::string>()] =
                   py::isinstance<Backend>(backend)
                       ? backend.cast<std::shared_ptr<Backend>>()
                       : make_python_backend(py::reinterpret_borrow<py::object>(backend));
             const py::gil_scoped_release release;
             return std::make_shared<GraphManager>(std::move(graph), std::move(board), std::move(backends));
           }),
           py::arg("graph").none(false), py::arg("board").none(false), py::arg("backends") = py::dict())
      .def(
          "trim",
          [](GraphManager& manager, double patience_s) {
            manager.trim(milliseconds("patience_s", patience_s));
          },
          py::arg("patience_s") = 2.0, ReleaseGil())
      .def_property_readonly("memory_bytes", py::cpp_function(&GraphManager::memory_bytes, ReleaseGil()))
      .def_property_readonly("warnings", &GraphManager::warnings);

  py::class_<SubGraph>(m, "SubGraph")
      .def_readonly("processor", &SubGraph::processor)
      .def_readonly("first_layer", &SubGraph::first_layer)
      .def_readonly("last_layer", &SubGraph::last_layer)
      .def_property_readonly(
          "partition", [](const SubGraph& s) { return std::const_pointer_cast<Partition>(s.partition); })
      .def_property_readonly("steps", [](const SubGraph& sub_graph) {
        std::vector<std::pair<size_t, size_t>> steps;
        for (const Step& step : sub_graph.steps) steps.emplace_back(step.first_layer, step.last_layer);
        return steps;
      });

  py::classh<GraphExecutor>(m, "GraphExecutor", py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](std::shared_ptr<GraphManager> manager, const Plan& plan,
                       const std::vector<std::shared_ptr<Partition>>& partitions, size_t frames_in_flight,
                       double timeout_s, size_t recorded_frames, bool measure_kernels,
                       std::shared_ptr<Governor> governor, std::shared_ptr<PowerMarker> marker) {
             ExecutorOptions options;
             options.frames_in_flight = frames_in_flight;
             options.timeout = milliseconds("timeout_s", timeout_s);
             options.recorded_frames = recorded_frames;
             options.measure_kernels = measure_kernels;
             const py::gil_scoped_release release;
             return std::make_shared<GraphExecutor>(
                 std::move(manager), plan,
                 std::vector<std::shared_ptr<const Partition>>(partitions.begin(), partitions.end()), options,
                 std::move(governor), std::move(marker));
           }),
           py::arg("manager").none(false), py::arg("plan"),
           py::arg("partitions") = std::vector<std::shared_ptr<Partition>>{}, py::arg("frames_in_flight") = 1,
           py::arg("timeout_s") = 60.0, py::arg("recorded_frames") = 1024, py::arg("measure_kernels") = false,
           py::arg("governor") = py::none(), py::arg("marker") = py::none())
      .def("run", &run_executor, py::arg("inputs"))
      .def("submit", &submit, py::arg("inputs"))
      .def("receive", &receive)
      .def("times", &times)
      .def("clear_times", &GraphExecutor::clear_times)
      .def("close", &GraphExecutor::close, ReleaseGil())
      .def_property_readonly("sub_graphs", [](const GraphExecutor& e) { return e.cut().sub_graphs; })
      .def_property_readonly("receivers",
                             [](const GraphExecutor& e) { return crossing(e, &SubGraph::receivers); })
      .def_property_readonly("senders",
                             [](const GraphExecutor& e) { return crossing(e, &SubGraph::senders); })
      .def_property_readonly("memory_bytes", &GraphExecutor::memory_bytes);
}

}  // namespace

// The option only spares -Wpedantic an empty variadic argument.
PYBIND11_MODULE(_native, m, py::multiple_interpreters::not_supported()) {
  m.attr("__version__") = PIQI_VERSION;
  bind_errors(m);
  bind_graph(m);
  bind_board(m);
  bind_backends(m);
  bind_vendor_backends(m);
  bind_arm_backends(m);
  bind_executor(m);
  m.def("convert_frame", &convert_frame, py::arg("source"), py::arg("width"), py::arg("height"),
        py::arg("stride"), py::arg("format"), py::arg("destination").noconvert(), py::arg("preprocessing"),
        py::arg("fit"), py::arg("colour"));
}
