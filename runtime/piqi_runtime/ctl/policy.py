"""piqictl policy: why a point was chosen, what a policy would have done over time, and the daemon's own."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piqi_runtime.bundle import load_bundle
from piqi_runtime.client import Client
from piqi_runtime.policy import Constraints, PolicyError, Sensors, Situation, load_policy
from piqi_runtime.policy.explain import explain
from piqi_runtime.policy.plot import plot_simulation
from piqi_runtime.policy.simulate import COLUMNS, SimulatedRow, read_trace, shares, simulate, write_rows
from piqi_runtime.report import format_table
from piqi_runtime.table import ParetoTable, load_table

TIMEOUT_S = 2.0

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("policy", help="explain, simulate, show and set the policy")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = actions.add_parser("explain", help="say why this point: rules, limits, what was excluded by what")
    _add_table(action)
    action.add_argument("--mode", help="as if this mode were set by hand")
    action.add_argument("--battery", type=float, metavar="PERCENT", help="by default this and the next are measured")
    action.add_argument("--mains", choices=("yes", "no"))
    action.add_argument("--temperature", type=float, metavar="C")
    action.add_argument("--power", type=float, metavar="MW")
    action.add_argument("--idle", type=float, default=0.0, metavar="S", help="time without clients (default: 0)")
    action.add_argument("--current", type=int, metavar="POINT", help="the point that runs, for the hysteresis")
    action.add_argument("--show", type=int, default=3, metavar="N", help="neighbours to list (default: 3)")
    action.add_argument("--json", action="store_true")
    action.set_defaults(function=_explain)

    action = actions.add_parser("simulate", help="replay a trace of battery, temperature and load")
    action.add_argument("trace", type=Path, metavar="TRACE.csv", help=f"columns: {', '.join(COLUMNS)}")
    _add_table(action)
    action.add_argument("--out", type=Path, metavar="FILE.csv", help="every row of the trace with its point")
    action.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png, .svg or .pdf (needs matplotlib)")
    action.add_argument("--all", action="store_true", help="print every row, not only the changes")
    action.set_defaults(function=_simulate)

    action = actions.add_parser("get", help="the daemon's mode, and why")
    _add_socket(action)
    action.set_defaults(function=_get)

    action = actions.add_parser("set", help="set the daemon's mode by hand")
    group = action.add_mutually_exclusive_group(required=True)
    group.add_argument("mode", nargs="?", metavar="MODE")
    group.add_argument("--rules", action="store_true", help="go back to the policy's rules")
    action.add_argument("--for", dest="seconds", type=float, metavar="S", help="then back to the rules")
    _add_socket(action)
    action.set_defaults(function=_set)


def _add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's (default: PIQI_SOCKET, or the usual)")
    parser.add_argument("--json", action="store_true", help="the daemon's reply")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, metavar="PATH", help="a bundle's folder, or a table file")
    parser.add_argument("--policy", default="default", help="of configs/policies, or a file (default: default)")
    group = parser.add_argument_group("limits of a client")
    group.add_argument("--min-accuracy", type=float, metavar="PERCENT")
    group.add_argument("--max-power-mw", type=float, metavar="MW")
    group.add_argument("--max-latency-ms", type=float, metavar="MS")
    group.add_argument("--max-energy-mj", type=float, metavar="MJ")


def _table(arguments: argparse.Namespace) -> ParetoTable:
    path: Path = arguments.bundle
    return load_bundle(path, verify=False).table if path.is_dir() else load_table(path)


def _limits(arguments: argparse.Namespace) -> Constraints:
    return Constraints(
        arguments.min_accuracy, arguments.max_power_mw, arguments.max_latency_ms, arguments.max_energy_mj
    )


def _situation(arguments: argparse.Namespace) -> Situation:
    """What the sensors say, unless it is given."""
    mains = None if arguments.mains is None else arguments.mains == "yes"
    given = {
        "battery_percent": arguments.battery,
        "on_mains": mains,
        "temperature_c": arguments.temperature,
        "power_mw": arguments.power,
    }
    measured = Sensors().read(time.monotonic(), arguments.idle)
    return replace(measured, **{name: value for name, value in given.items() if value is not None})


def _explain(arguments: argparse.Namespace) -> None:
    table, policy = _table(arguments), load_policy(arguments.policy)
    if arguments.current is not None and not 0 <= arguments.current < len(table.points):
        raise PolicyError(f"--current: expected 0 to {len(table.points) - 1}, got {arguments.current}")
    explanation = explain(
        table,
        policy,
        _situation(arguments),
        limits=_limits(arguments),
        mode=arguments.mode,
        current=arguments.current,
        shown=max(0, arguments.show),
    )
    if arguments.json:
        print(json.dumps(explanation.to_dict(), indent=1, ensure_ascii=False))
    else:
        print(explanation.to_text())


def _simulate(arguments: argparse.Namespace) -> None:
    table, policy, trace = _table(arguments), load_policy(arguments.policy), read_trace(arguments.trace)
    rows = simulate(table, policy, trace, _limits(arguments))
    shown = [row for i, row in enumerate(rows) if arguments.all or not i or row.mode_changed or row.switched]
    print(
        format_table(
            [("time s", "mode", "point", "ms", "mW", "accuracy", "degraded", "why")] + [_row(row) for row in shown],
            left=(1, 6, 7),
        )
    )
    print()
    summary = [("mode", "seconds", "entries", "mean ms", "mean mW", "mean accuracy", "degraded s")]
    summary += [
        (
            share.mode,
            f"{share.seconds:.0f}",
            str(share.entries),
            f"{share.latency_ms:.4g}",
            f"{share.power_mw:.4g}",
            f"{share.accuracy:.2f}",
            f"{share.degraded_s:.0f}",
        )
        for share in shares(rows)
    ]
    print(format_table(summary, left=(0,)))
    switches = sum(row.switched for row in rows)
    print(f"\n{len(rows)} rows, {rows[-1].time_s - rows[0].time_s:.0f} s, {switches} switches")
    if arguments.out is not None:
        write_rows(rows, arguments.out)
    if arguments.plot is not None:
        plot_simulation(rows, trace, arguments.plot, f"{table.model} on {table.board}, policy {policy.name}")


def _row(row: SimulatedRow) -> tuple[str, ...]:
    figures = (row.latency_ms, row.power_mw, row.accuracy)
    return (
        f"{row.time_s:g}",
        row.mode,
        "none" if row.point is None else str(row.point),
        *("-" if value is None else f"{value:.4g}" for value in figures),
        row.degraded or "-",
        row.reason,
    )


def _get(arguments: argparse.Namespace) -> None:
    with Client(arguments.socket, TIMEOUT_S, name="piqictl") as client:
        _print_state(client.policy(), arguments.json)


def _set(arguments: argparse.Namespace) -> None:
    if arguments.rules and arguments.seconds is not None:
        raise PolicyError(f"--for: expected a mode with it, got {arguments.seconds:g} with --rules")
    with Client(arguments.socket, TIMEOUT_S, name="piqictl") as client:
        _print_state(client.policy(arguments.mode, seconds=arguments.seconds), arguments.json)


def _print_state(state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(state, indent=1, ensure_ascii=False))
        return
    print(f"policy {state['policy']}, mode {state['mode']}: {state['reason']}")
    print(f"modes  {', '.join(state['modes'])}")
    print("rules  " + (", ".join(f"{rule['name']} -> {rule['mode']}" for rule in state["rules"]) or "none"))
