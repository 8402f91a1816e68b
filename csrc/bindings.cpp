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

#include "batch.h"
#include "joint_solver.h"
#include "near_optimal.h"
#include "solver.h"

namespace py = pybind11;

namespace {

using CostArray = py::array_t<std::int64_t, py::array::c_style>;
using DistortionArray = py::array_t<double, py::array::c_style>;
using ResponseArray = py::array_t<float, py::array::c_style>;
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

void requireLimits(double timeLimit, std::int64_t memoryLimit) {
    if (std::isnan(timeLimit) || timeLimit < 0)
        throw std::invalid_argument("time_limit must not be negative");
    if (memoryLimit < 0) throw std::invalid_argument("memory_limit must not be negative");
}

void interrupt() {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
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
    requireLimits(timeLimit, memoryLimit);
    const rdprune::Instance instance{view(costs),   view(distortions),
                                     view(offsets), view(allowed),
                                     view(groups),  static_cast<std::size_t>(costs.shape(1))};
    const rdprune::Limits limits{timeLimit, static_cast<std::size_t>(memoryLimit), interrupt};
    // The arrays are held by the caller's frame; other threads may run while this one searches.
    const py::gil_scoped_release release;
    return rdprune::solve(instance, view(budgets), limits);
}

std::vector<rdprune::Solution> solveBatch(const CostArray& costs,
                                          const DistortionArray& distortions,
                                          const CostArray& offsets, const FlagArray& allowed,
                                          const CostArray& groups, const CostArray& budget,
                                          std::int64_t threads, double timeLimit,
                                          std::int64_t memoryLimit) {
    requireDimensions(costs, 2, "costs");
    requireDimensions(distortions, 2, "distortions");
    requireDimensions(offsets, 1, "offsets");
    requireDimensions(allowed, 1, "allowed");
    requireDimensions(groups, 1, "groups");
    requireDimensions(budget, 1, "budget");
    if (distortions.shape(1) != allowed.shape(0))
        throw std::invalid_argument("distortions must have one column per option");
    requireLimits(timeLimit, memoryLimit);
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    const rdprune::Instance instance{view(costs),   view(distortions),
                                     view(offsets), view(allowed),
                                     view(groups),  static_cast<std::size_t>(costs.shape(1))};
    const rdprune::Limits limits{timeLimit, static_cast<std::size_t>(memoryLimit), interrupt};
    // As above: the caller's frame holds the arrays.
    const py::gil_scoped_release release;
    return rdprune::solveBatch(instance, view(budget), static_cast<std::size_t>(threads), limits);
}

rdprune::NearOptimal solveNear(const CostArray& costs, const DistortionArray& distortions,
                               const CostArray& offsets, const FlagArray& allowed,
                               const CostArray& groups, std::int64_t budget, std::int64_t most,
                               double relative, double absolute, double timeLimit,
                               std::int64_t memoryLimit) {
    requireDimensions(costs, 1, "costs");
    requireDimensions(distortions, 1, "distortions");
    requireDimensions(offsets, 1, "offsets");
    requireDimensions(allowed, 1, "allowed");
    requireDimensions(groups, 1, "groups");
    requireLimits(timeLimit, memoryLimit);
    const rdprune::Instance instance{view(costs),   view(distortions), view(offsets),
                                     view(allowed), view(groups),      1};
    const rdprune::Nearness nearness{most < 0 ? 0 : static_cast<std::size_t>(most), relative,
                                     absolute};
    const rdprune::Limits limits{timeLimit, static_cast<std::size_t>(memoryLimit), interrupt};
    // As above: the caller's frame holds the arrays.
    const py::gil_scoped_release release;
    return rdprune::solveNearOptimal(instance, budget, nearness, limits);
}

py::array_t<std::int64_t> toRows(const std::vector<std::vector<rdprune::Index>>& rows) {
    const std::size_t width = rows.empty() ? 0 : rows.front().size();
    py::array_t<std::int64_t> array({rows.size(), width});
    for (std::size_t row = 0; row < rows.size(); ++row)
        std::memcpy(array.mutable_data() + row * width, rows[row].data(),
                    width * sizeof(rdprune::Index));
    return array;
}

template <auto& method, typename... Extra>
rdprune::JointSolution solveJoint(const CostArray& costs, const DistortionArray& distortions,
                                  const ResponseArray& responses, const DistortionArray& offset,
                                  const CostArray& offsets, const FlagArray& allowed,
                                  const CostArray& groups, const CostArray& budget,
                                  double timeLimit, std::int64_t memoryLimit, Extra... extra) {
    requireDimensions(costs, 2, "costs");
    requireDimensions(distortions, 1, "distortions");
    requireDimensions(responses, 2, "responses");
    requireDimensions(offset, 1, "offset");
    requireDimensions(offsets, 1, "offsets");
    requireDimensions(allowed, 1, "allowed");
    requireDimensions(groups, 1, "groups");
    requireDimensions(budget, 1, "budget");
    if (costs.shape(1) != budget.shape(0))
        throw std::invalid_argument("budget must have one entry per cost");
    requireLimits(timeLimit, memoryLimit);
    const rdprune::JointInstance instance{
        {view(costs), view(distortions), view(offsets), view(allowed), view(groups),
         static_cast<std::size_t>(costs.shape(1))},
        view(responses),
        view(offset),
        static_cast<std::size_t>(responses.shape(1))};
    const rdprune::Limits limits{timeLimit, static_cast<std::size_t>(memoryLimit), interrupt};
    // As above: the caller's frame holds the arrays.
    const py::gil_scoped_release release;
    return method(instance, view(budget), limits, extra...);
}

template <auto& method, typename... Extra>
void defineJoint(py::module_& module, const char* name, const char* text,
                 const std::conditional_t<true, py::arg_v, Extra>&... extra) {
    module.def(name, &solveJoint<method, Extra...>, py::arg("costs"), py::arg("distortions"),
               py::arg("responses"), py::arg("offset"), py::arg("offsets"), py::arg("allowed"),
               py::arg("groups"), py::arg("budget"), py::kw_only(), py::arg("time_limit"),
               py::arg("memory_limit"), extra..., text);
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

    module.def("solve_batch", &solveBatch, py::arg("costs"), py::arg("distortions"),
               py::arg("offsets"), py::arg("allowed"), py::arg("groups"), py::arg("budget"),
               py::kw_only(), py::arg("threads"), py::arg("time_limit"), py::arg("memory_limit"),
               "Solves one instance for every row of distortions; see rdprune_core.allocate_many.");

    py::class_<rdprune::NearOptimal>(module, "NearSolution")
        .def_property_readonly("choices",
                               [](const rdprune::NearOptimal& s) { return toRows(s.choices); })
        .def_readonly("optimal", &rdprune::NearOptimal::optimal)
        .def_readonly("best_optimal", &rdprune::NearOptimal::bestOptimal)
        .def_readonly("complete", &rdprune::NearOptimal::complete)
        .def_readonly("multiplier", &rdprune::NearOptimal::multiplier)
        .def_readonly("lower_bound", &rdprune::NearOptimal::lowerBound);

    module.def("solve_near", &solveNear, py::arg("costs"), py::arg("distortions"),
               py::arg("offsets"), py::arg("allowed"), py::arg("groups"), py::arg("budget"),
               py::kw_only(), py::arg("k"), py::arg("relative"), py::arg("absolute"),
               py::arg("time_limit"), py::arg("memory_limit"),
               "The k best allocations of one instance; see rdprune_core.near_optimal.");

    py::class_<rdprune::JointSolution>(module, "JointSolution")
        .def_property_readonly("choice",
                               [](const rdprune::JointSolution& s) { return toArray(s.choice); })
        .def_readonly("distortion", &rdprune::JointSolution::distortion)
        .def_readonly("optimal", &rdprune::JointSolution::optimal)
        .def_readonly("lower_bound", &rdprune::JointSolution::lowerBound)
        .def_readonly("multipliers", &rdprune::JointSolution::multipliers)
        .def_readonly("states", &rdprune::JointSolution::states);

    defineJoint<rdprune::solveJoint>(module, "solve_joint",
                                     "Solves the joint objective; see rdprune_core.allocate.");
    defineJoint<rdprune::searchJoint, std::size_t>(
        module, "search_joint", "The heuristics and the relaxation alone, without exact search.",
        py::arg("effort") = 1);
    defineJoint<rdprune::solveJointExact>(module, "solve_joint_exact",
                                          "Depth-first search alone, from the additive optimum.");
}
