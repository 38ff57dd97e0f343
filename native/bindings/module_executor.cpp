// The manager, the executor and its times.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "arrays.hpp"
#include "bindings.hpp"
#include "piqi/graph_executor.hpp"
#include "python_backend.hpp"
#include "seconds.hpp"

namespace py = pybind11;

namespace piqi::bindings {
namespace {

void submit(GraphExecutor& executor, const py::dict& inputs) {
  const FrameArrays frame(executor.graph(), inputs);
  const py::gil_scoped_release release;
  executor.submit(frame.pointers.data());
}

py::dict receive(GraphExecutor& executor) {
  ResultArrays results(executor.graph());
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
  for (size_t i = 0; i < times.sub_graphs.size(); ++i)
    sub_graphs.append(rows(times.sub_graphs[i], row_width(executor.cut().sub_graphs[i])));
  py::dict result;
  result["sub_graphs"] = sub_graphs;
  result["frames"] = rows(times.frames, 2);
  return result;
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

}  // namespace

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
      .def("run", &run<GraphExecutor>, py::arg("inputs"))
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

}  // namespace piqi::bindings
