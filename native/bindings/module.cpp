// The Python module and its errors.
#include <exception>

#include "bindings.hpp"
#include "piqi/error.hpp"
#include "piqi/frame.hpp"
#include "piqi/version.hpp"

namespace py = pybind11;
using namespace piqi;

namespace {

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

}  // namespace

// The option only spares -Wpedantic an empty variadic argument.
PYBIND11_MODULE(_native, m, py::multiple_interpreters::not_supported()) {
  m.attr("__version__") = PIQI_VERSION;
  bind_errors(m);
  bindings::bind_graph(m);
  bindings::bind_board(m);
  bindings::bind_backends(m);
  bindings::bind_executor(m);
  bindings::bind_frame(m);
}
