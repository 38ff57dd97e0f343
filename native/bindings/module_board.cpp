// Boards, plans, governors, markers.
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings.hpp"
#include "piqi/board.hpp"
#include "piqi/governor.hpp"
#include "piqi/plan.hpp"
#include "piqi/power_marker.hpp"

namespace py = pybind11;

namespace piqi::bindings {
namespace {

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

}  // namespace

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

}  // namespace piqi::bindings
