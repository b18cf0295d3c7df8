"""Early warning: takes in records of train steps and returns alerts. Pure; uses NumPy and never imports jax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxprop.errors import UsageError, one_of
from jaxprop.health.watch.advice import Setup
from jaxprop.health.watch.alerts import Alert, WatchConfig
from jaxprop.health.watch.causes import DAMAGE, exploded, likeliest
from jaxprop.health.watch.depth import Depth
from jaxprop.health.watch.detectors import GradientNorm, LossLevel, NonFinite, Output, Rate, Symptom
from jaxprop.health.watch.history import decode, encode
from jaxprop.health.watch.layerwise import Activations, AdamLag, Numbers, Start, Updates
from jaxprop.health.watch.outcome import beats_trivial, converged, dead, trivial, unchanged
from jaxprop.health.watch.reading import RECURRENT, Reading, Trail, read
from jaxprop.health.watch.scaling import LossScale
from jaxprop.health.watch.schedule import follow

if TYPE_CHECKING:
    from jaxprop.core.measurements import Measurements

__all__ = ["Alert", "Watch", "WatchConfig"]

# The order matters: later detectors read the evidence that earlier ones note.
DETECTORS = (
    Rate, Output, LossLevel, GradientNorm, NonFinite, LossScale, AdamLag, Start, Depth, Activations, Numbers, Updates,
)  # fmt: skip
# Alerts that end with their symptom, so that each streak is reported; others end after `WatchConfig.clear` steps.
BRIEF = ("nonfinite",)
# Alerts that a new phase of the schedule may cause again; those that are properties of the model are not repeated.
SENSITIVE = (
    "gradient_spike", "layer_spike", "gradient_trend", "loss_rise", "loss_jump", "adam_lag", "output_trend",
    "output_drift",
)  # fmt: skip
# What detectors of records with rows see in full records only.
SELDOM = ("update_ratio", "overshoot", "damped", "frozen", "zero_gradient", "init", "init_scale", "exploding")
SOURCES = ("python", "yaml", "fit")
# Alarms on the level and trend of the loss, and what rests on them alone.
OF_THE_LOSS = ("loss_rise", "loss_jump", "loss_start", "overshoot")
SEVERITY = {"advice": 1, "act": 2}


class Watch:
    """Follows a run's records and warns before training fails.

    An alert is returned when its symptom starts, and once more if its severity rises from advice to act, but not while
    it lasts. Values of skipped and of non-finite steps do not enter the histories.

    Args:
      layer_names: names of the layers, `step.layer_names`, for records that hold none; otherwise their own are used.
      config: thresholds.
      stationary: whether the loss is expected to fall and to stay where it is. False for losses that move by nature,
        such as those of reinforcement learning and GANs: their level and trend then give no alarm.
      source: who reads the advice: `"python"` in a loop of one's own, `"yaml"` in a run of the command line, `"fit"` in
        one of `jaxprop.fit`.
      run: the run's configuration as nested mappings, so that nothing is advised that is in force already.
      folder: the run's folder, for commands that are advised.
      code: files and modules with code of the user's own, which these commands have to repeat.

    Raises:
      UsageError: for an unknown source.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import SCALARS, Layout, Measurements
      >>> def record(loss, norm, skipped=0.0):
      ...     values = dict.fromkeys(SCALARS, np.nan) | {"loss": loss, "grad_norm": norm, "skipped": skipped}
      ...     return Measurements(np.array(list(values.values()), np.float32), Layout((), ()))
      >>> watch = Watch()
      >>> [alert for step in range(1, 200) for alert in watch.update(step, record(1.0, 1 + 0.1 * (step % 5)))]
      []
      >>> [(alert.kind, alert.severity, alert.cause) for alert in watch.update(200, record(np.nan, np.nan, 1.0))]
      [('nonfinite', 'act', 'not_finite')]

    Reference:
      Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, 2023; Kumar et al.,
      ZClip, 2025; Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, 1968.
    """

    def __init__(
        self,
        layer_names: Sequence[str] = (),
        config: WatchConfig | None = None,
        *,
        stationary: bool = True,
        source: str = "python",
        run: Mapping[str, Any] | None = None,
        folder: str = "",
        code: Sequence[str] = (),
    ):
        if source not in SOURCES:
            raise UsageError(one_of(source, SOURCES, "source"))
        self.layer_names = tuple(layer_names)
        self.config = WatchConfig() if config is None else config
        self.setup = Setup(source, run or {}, folder, tuple(code))
        self.stationary = stationary
        self._trail = Trail(recurrent=any(RECURRENT.search(name) for name in self.layer_names))
        self._detectors = [detector() for detector in DETECTORS]
        self._lasting: dict[str, list[int]] = {}  # kind -> severity, last step it was found at, misses since

    def update(self, step: int, m: Measurements) -> list[Alert]:
        """Takes in the record of one step and returns the alerts that start with it.

        Args:
          step: the number of the step, from 1; steps may be left out.
          m: its record, on the device or in host memory.

        Returns:
          Alerts, the most severe first.

        Raises:
          UsageError: the record holds several steps.
        """
        r = read(step, m, self.layer_names)
        trail = self._trail
        trail.start, trail.step, trail.layers = trail.start or step, step, len(r.names)
        trail.clipped = trail.clipped or math.isfinite(r.clipped)
        if follow(r, trail):
            self._grace(step, SENSITIVE)
        measured = {"lean", *(["rows"] if r.rows is not None else []), *(["full"] if r.tiny is not None else [])}
        found: list[Symptom] = []
        for detector in self._detectors:
            if detector.detail in measured:
                symptoms = detector.scan(r, trail, self.config)
                found += symptoms
                judged = [kind for kind in detector.kinds if "full" in measured or kind not in SELDOM]
                self._clear(step, judged, {symptom.kind for symptom in symptoms})
        if not self.stationary:
            found = [self._without_loss(symptom) for symptom in found if symptom.kind not in OF_THE_LOSS]
        new = [symptom for symptom in found if self._starts(step, symptom)]
        new.sort(key=lambda symptom: -SEVERITY[symptom.severity])
        alerts = [self._alert(symptom, r) for symptom in new]
        return [alert for alert in alerts if not self._is_told(alert)]

    def outcome(
        self, metrics: Mapping[str, Any] | None = None, reference: Mapping[str, Any] | None = None
    ) -> str | None:
        """Says that the run so far has learned nothing, which is the first thing to tell of it; None if it has.

        Args:
          metrics: results by name, such as `{"accuracy": 0.98}`.
          reference: those of trivial predictors, named `<predictor>_<metric>`, such as `{"majority_accuracy": 0.1}`.

        Returns:
          That the network is dead, no better than a trivial predictor, or (where the loss is stationary) no better
          than at its start.
        """
        trail, metrics, reference = self._trail, metrics or {}, reference or {}
        start_and_now = next(d for d in self._detectors if isinstance(d, LossLevel)).start_and_now
        if beats_trivial(metrics, reference):
            return None
        said = dead(trail.step, trail.dead_since, trail.dead_layers, trail.layers)
        if said is not None and converged(*start_and_now):
            said = None
        said = said or trivial(metrics, reference)
        if said is None and self.stationary and trail.step - trail.start >= self.config.arm:
            said = unchanged(*start_and_now)
        return said

    @property
    def exploded(self) -> bool:
        """Whether the newest step that was not finite came after exploding losses, as their consequence."""
        return exploded(self._trail)

    def rearm(self, step: int) -> None:
        """Ends all alerts and starts a grace period, as is needed after a rollback or another response.

        Args:
          step: the step that the run continues from.
        """
        self._grace(step, tuple(self._lasting))

    def state(self) -> dict[str, Any]:
        """Returns the state of the watch as JSON values, from which `restore` continues exactly."""
        return {
            "trail": encode(self._trail),
            "lasting": encode(self._lasting),
            "detectors": {type(d).__name__: encode(d) for d in self._detectors},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a state that `state` returned.

        Raises:
          UsageError: the state belongs to a watch with other detectors.
        """
        names = {type(d).__name__ for d in self._detectors}
        if state.keys() != {"trail", "lasting", "detectors"} or state["detectors"].keys() != names:
            raise UsageError(
                "expected a state returned by Watch.state(), got other keys; start with a new Watch instead"
            )
        decode(self._trail, state["trail"])
        self._lasting = decode(None, state["lasting"])
        for detector in self._detectors:
            decode(detector, state["detectors"][type(detector).__name__])

    def _is_told(self, alert: Alert) -> bool:
        """Whether an alert is of what bad first weights, of which there has been one already, have damaged."""
        return alert.cause == "bad_init" and alert.kind in DAMAGE and self._trail.get("init_scale") > 0

    def _without_loss(self, symptom: Symptom) -> Symptom:
        """A spike of the gradient is no more serious for a loss above its mean where the loss moves by nature."""
        calmer = symptom.kind == "gradient_spike" and symptom.value <= self.config.z_act
        return symptom._replace(severity="advice") if calmer else symptom

    def _grace(self, step: int, kinds: Sequence[str]) -> None:
        self._trail.grace_until = step + self.config.grace
        self._trail.note(step, stayed=0)  # no jump of the loss is waited for any more
        for kind in kinds:
            self._lasting.pop(kind, None)
        for detector in self._detectors:
            if isinstance(detector, GradientNorm | LossLevel | Output):
                detector.rearm()

    def _starts(self, step: int, symptom: Symptom) -> bool:
        severity = SEVERITY[symptom.severity]
        before = self._lasting.get(symptom.kind)
        self._lasting[symptom.kind] = [max(severity, before[0] if before else 0), step, 0]
        return before is None or severity > before[0]

    def _clear(self, step: int, kinds: Sequence[str], found: set[str]) -> None:
        for kind in kinds:
            if kind in found or kind not in self._lasting:
                continue
            self._lasting[kind][2] += 1
            _, last, misses = self._lasting[kind]
            if kind in BRIEF or (misses >= 3 and step - last > self.config.clear):
                del self._lasting[kind]

    def _alert(self, symptom: Symptom, r: Reading) -> Alert:
        cause, fix, evidence = likeliest(symptom, r, self._trail, self.setup)
        since = int(symptom.since) or r.step
        return Alert(
            r.step, symptom.kind, symptom.layer, symptom.severity, float(symptom.value), float(symptom.threshold),
            since, evidence, cause, fix,
        )  # fmt: skip
