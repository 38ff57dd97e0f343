"""From sensors, policy and the clients' limits to the point that each model runs at. Main thread only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from piqi_runtime.daemon import systemd
from piqi_runtime.daemon.runner import Runner
from piqi_runtime.daemon.session import Session
from piqi_runtime.policy.choose import Constraints, Decision
from piqi_runtime.policy.config import Policy
from piqi_runtime.policy.modes import ModeChoice, ModeSelector
from piqi_runtime.policy.situation import Situation

_logger = logging.getLogger(__name__)

#: A processor counts as throttled from the first on, until it is below the second (measured / predicted latency).
THROTTLED, RECOVERED = 1.3, 1.15


class Steering:
    """Chooses modes and points. `publish(event, values)` tells the clients that subscribed."""

    def __init__(self, policy: Policy, now_s: float, publish: Callable[..., None]) -> None:
        self.policy = policy
        self.selector = ModeSelector(policy)
        self.situation = Situation(now_s)
        self.choice: ModeChoice = self.selector.select(self.situation)
        self.decisions: dict[str, Decision] = {}
        self._publish = publish
        self._throttled: set[tuple[str, str]] = set()

    def replace_policy(self, policy: Policy) -> None:
        """From now on this policy; what was set by hand is forgotten."""
        self.policy, self.selector = policy, ModeSelector(policy)

    def update(self, situation: Situation, runners: Collection[Runner], sessions: Collection[Session]) -> None:
        """The board is like this now."""
        self.situation = situation
        self.select(situation.now_s)
        for runner in runners:
            self.steer(runner, sessions)
            self._watch_throttling(runner)

    def select(self, now_s: float) -> None:
        """Applies rules and override as of `now_s`."""
        self.choice = choice = self.selector.select(replace(self.situation, now_s=now_s))
        if choice.changed:
            _logger.info("mode %s: %s", choice.name, choice.reason)

    def steer(self, runner: Runner, sessions: Iterable[Session]) -> Decision:
        """Chooses the model's point anew and has it prepared."""
        serving = runner.serving
        host, table = serving.host, serving.bundle.table
        mode = self.policy.modes[self.choice.name]
        constraints = mode.constraints(table)
        for session in sessions:
            limits = session.limits.get(runner.name)
            if limits is not None:
                own = Constraints(limits.min_accuracy, limits.max_power_mw, limits.max_latency_ms)
                constraints = constraints.merged(own)
        decision = serving.chooser.choose(
            constraints,
            mode.objective,
            latency_factor=host.latency_factor,
            power_factor=host.power_factor,
            excluded=host.excluded,
            current=host.current if host.current >= 0 else None,
            hysteresis=self.policy.hysteresis,
            relax=mode.relax,
        )
        self.decisions[runner.name] = decision
        if decision.point is not None:
            host.request(decision.point)
        if decision.degraded != runner.degraded:
            runner.degraded = decision.degraded
            what = f"not kept: {', '.join(decision.degraded)}" if decision.degraded else "all limits are kept again"
            _logger.warning(
                "%s: mode %s: %s",
                runner.name,
                self.choice.name,
                what,
                extra=systemd.fields("degrade", model=runner.name),
            )
            self._publish(
                "degrade", model=runner.name, degraded=list(decision.degraded), relaxed=decision.relaxed.given()
            )
        return decision

    def _watch_throttling(self, runner: Runner) -> None:
        factors: dict[str, Any] = runner.serving.host.status().get("latency_factors", {})
        for letter, factor in factors.items():
            key = (runner.name, letter)
            throttled = factor > (RECOVERED if key in self._throttled else THROTTLED)
            if throttled == (key in self._throttled):
                continue
            (self._throttled.add if throttled else self._throttled.discard)(key)
            _logger.warning(
                "%s: processor %s takes %.2f times what was predicted",
                runner.name,
                letter,
                factor,
                extra=systemd.fields("throttle", model=runner.name),
            )
            self._publish("throttle", model=runner.name, processor=letter, factor=factor, throttled=throttled)
