"""What the report of a build says, gathered from its stages."""

from __future__ import annotations

import json

from piqi_planner.accuracy import held_out, read_samples
from piqi_planner.build.characterise import Characterisation
from piqi_planner.build.project import Project
from piqi_planner.build.report import ReportData, chosen_points, render_report, timeline
from piqi_planner.front import single_processor_fronts
from piqi_runtime.table import load_table


def build_page(project: Project, characterisation: Characterisation) -> str:
    """The page, from the files of the stages before."""
    options, path = project.options, project.path
    table = load_table(path("table.json"))
    samples = read_samples(path("samples.csv"), project.model.layer_count, "accuracy")
    predicted, figures = held_out(samples, options.seed)
    return render_report(
        ReportData(
            title=f"{table.model} on {table.board}",
            facts={
                "images": f"{len(project.dataset)}, {options.evaluate.name}",
                "metric": options.metric,
                "masks measured": str(len(samples)),
                "confidence of a bound": f"{options.confidence:g}",
                "profile": "measured where it could be" if options.profile else "estimated",
                "cost model": options.cost,
            },
            table=table,
            singles=single_processor_fronts(project.profile, project.cost),
            characterisation=characterisation,
            accuracy_figures=figures,
            predicted=predicted,
            measured=samples.accuracy_percent,
            history=[(int(masks), float(volume)) for masks, volume in json.loads(path("rounds.json").read_bytes())],
            cost_notes=_cost_notes(project),
            timelines={
                title: timeline(point, project.profile, project.cost) for title, point in chosen_points(table).items()
            },
            verified=json.loads(path("verification.json").read_bytes()),
        )
    )


def _cost_notes(project: Project) -> list[str]:
    options = project.options
    notes = [
        "Latency, power and energy are predictions of the cost model; measure points on the board to replace them."
    ]
    if options.cost == "calibrated":
        notes.append(f"Calibrated parameters: {project.cost_parameters.provenance}.")
    if options.profile is None:
        notes.append(
            "No profile was measured for this model: layers' times and powers come from the board file's analytic "
            "model. docs/estimated_profile.md states its errors for models that it was not fitted to."
        )
    holes = project.profile.holes
    if holes:
        notes.append(f"{len(holes)} values of the profile were not measured and are filled in by rule.")
    return notes
