// The Python module rdprune_core._core. Only this file knows Python.
//
// Arrays come in with exact dtypes and C order (rdprune_core converts and checks them first);
// py::array::forcecast is left out on purpose, it would turn 1.7 into 1 without a word.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <string>

#include "solver.h"

namespace py = pybind11;

namespace {

using CostArray = py::array_t<std::int64_t, py::array::c_style>;
using DistortionArray = py::array_t<double, py::array::c_style>;
using FlagArray = py::array_t<std::uint8_t, py::array::c_style>;

template <typename T, int flags>
std::span<const T> view(const py::array_t<T, flags>& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

void requireDimensions(const py::array& array, py::ssize_t dimensions, const char* name) {
    if (array.ndim() != dimensions)
        throw std::invalid_argument(std::string(name) + " must have " + std::to_string(dimensions) +
                                    " dimension(s)");
}

template <typename T>
py::array_t<T> toArray(const std::vector<T>& values) {
    py::array_t<T> array(static_cast<py::ssize_t>(values.size()));
    std::memcpy(array.mutable_data(), values.data(), values.size() * sizeof(T));
    return array;
}

std::vector<rdprune::Solution> solve(const CostArray& costs, const DistortionArray& distortions,
                                     const CostArray& offsets, const FlagArray& allowed,
                                     const CostArray& groups, const CostArray& budgets,
                                     double timeLimit, std::int64_t memoryLimit) {
    requireDimensions(costs, 2, "costs");
    requireDimensions(distortions, 1, "distortions");
    requireDimensions(offsets, 1, "offsets");
    requireDimensions(allowed, 1, "allowed");
    requireDimensions(groups, 1, "groups");
    requireDimensions(budgets, 2, "budgets");
    if (costs.shape(1) != budgets.shape(1))
        throw std::invalid_argument("budgets must have one column per cost");
    if (std::isnan(timeLimit) || timeLimit < 0)
        throw std::invalid_argument("time_limit must not be negative");
    if (memoryLimit < 0) throw std::invalid_argument("memory_limit must not be negative");
    const rdprune::Instance instance{view(costs),   view(distortions),
                                     view(offsets), view(allowed),
                                     view(groups),  static_cast<std::size_t>(costs.shape(1))};
    const rdprune::Limits limits{timeLimit, static_cast<std::size_t>(memoryLimit), [] {
                                     const py::gil_scoped_acquire gil;
                                     if (PyErr_CheckSignals() != 0) throw py::error_already_set();
                                 }};
    // The arrays are held by the caller's frame; other threads may run while this one searches.
    const py::gil_scoped_release release;
    return rdprune::solve(instance, view(budgets), limits);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "Exact solvers for the multiple-choice knapsack problem.";
    module.attr("__version__") = RDPRUNE_VERSION;
    module.attr("MAX_TOTAL_COST") = rdprune::maxTotalCost;

    // Leaked on purpose: the translator may run while the interpreter shuts down.
    static const py::handle infeasible =
        py::exception<rdprune::InfeasibleBudget>(module, "InfeasibleBudget", PyExc_ValueError)
            .release();
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const rdprune::InfeasibleBudget& error) {
            const py::object exception = infeasible(py::str(error.what()), py::cast(error.least()));
            PyErr_SetObject(infeasible.ptr(), exception.ptr());
        }
    });

    py::class_<rdprune::Solution>(module, "Solution")
        .def_property_readonly("choice",
                               [](const rdprune::Solution& s) { return toArray(s.choice); })
        .def_readonly("optimal", &rdprune::Solution::optimal)
        .def_readonly("lower_bound", &rdprune::Solution::lowerBound)
        .def_readonly("multipliers", &rdprune::Solution::multipliers)
        .def_readonly("states", &rdprune::Solution::states);

    module.def("solve", &solve, py::arg("costs"), py::arg("distortions"), py::arg("offsets"),
               py::arg("allowed"), py::arg("groups"), py::arg("budgets"), py::kw_only(),
               py::arg("time_limit"), py::arg("memory_limit"),
               "Solves one instance for every row of budgets; see rdprune_core.allocate.");
}
