"""The compiled train step: jitted, donated, measuring more in some calls than in others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state
from jax.sharding import Mesh

from jaxprop.core.compiler import fast_options
from jaxprop.core.layers import group_layers
from jaxprop.core.measurements import Measurements
from jaxprop.core.precision import check_device, masters, needs_scaling
from jaxprop.errors import JaxpropError, UsageError, one_of
from jaxprop.health.nonfinite.find import Finding, find_nonfinite
from jaxprop.health.signals.settings import DETAILS, RARE, Signals
from jaxprop.parallel import rules as placing
from jaxprop.parallel import sharding
from jaxprop.parallel.offload import fetched, offloaded
from jaxprop.parallel.placement import place_state
from jaxprop.parallel.rules import Rule
from jaxprop.parallel.sharding import StateSharding
from jaxprop.train.arguments import mistake
from jaxprop.train.averages import chosen, options_of
from jaxprop.train.compilations import NOTICED, Compilation, Compilations, listen
from jaxprop.train.explain import explain
from jaxprop.train.explanation import Explanation
from jaxprop.train.lanes import Alone, Lane
from jaxprop.train.memory import Memory, predict
from jaxprop.train.state import eval_extras, eval_params, init_state
from jaxprop.train.step import Recipe, variants
from jaxprop.train.trainable import merge, split, trainable_mask
from jaxprop.types import Batch, PyTree, TrainState

LOG = logging.getLogger("jaxprop")
_OUTSIDE = get_opaque_trace_state()  # of all transformations; imported within one, this is equal to no later state


class TrainStep:
    """A compiled train step, `(state, batch) -> (state, Measurements)`; made by `make_train_step`.

    The state is donated: after the call the old one is gone. Arguments are positional, since jit does not
    donate keyword arguments. What is measured rarely is a second program, compiled when it is first due; a line on
    the `jaxprop` logger announces that slow call. A call that compiles a program again is told there with its cause,
    its cost and the fix; a loop that says itself what each call measures finds that in `compilations` instead.

    Args:
      recipe: what the step closes over.
      steps_per_call: steps that one call takes.
      mesh: the devices, or None for a single one.
      state_sharding: how the state lies on the mesh, or None for what `rules` say.
      rules: where parameters lie, and what belongs to them.
      compiler_options: of `jax.jit`.
      lane: where the step shares its programs with those of other runs.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps_per_call: int,
        mesh: Mesh | None = None,
        state_sharding: StateSharding = None,
        rules: Sequence[Rule] = (),
        compiler_options: dict[str, Any] | None = None,
        lane: Lane | None = None,
    ):
        self._recipe = self.recipe = recipe
        self._steps_per_call, self._mesh, self._sharding, self._rules = steps_per_call, mesh, state_sharding, rules
        self._compiler_options, self._lane = compiler_options, lane or Alone(recipe, mesh)
        self._flushes = needs_scaling(recipe.policy)
        self._compiled: dict[str, Any] = {}
        self._traced = Alone(recipe).programs(steps_per_call, {})
        self._calls = 0
        self._taken: set[str] = set()  # the details that calls have had
        self._layers: tuple[str, ...] | None = None
        self._compilations = Compilations()
        listen()

    def init(self, params: PyTree, *, key: jax.Array, extras: PyTree = None) -> TrainState:
        """Returns the state before the first step.

        Precision, averages, loss scale, devices and health are the step's own, so that the state fits it.

        Args:
          params: any pytree of arrays. They are copied: donation never takes the caller's.
          key: PRNG key of the run, `jax.random.key(seed)`.
          extras: what the model carries besides parameters; none by default.

        Returns:
          The train state.

        Raises:
          UsageError: a leaf of `params` is no array, or `key` is no PRNG key.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda params, batch, key: params["w"] ** 2, optax.sgd(0.1))
          >>> step.init({"w": jnp.ones(())}, key=jax.random.key(0)).params["w"].item(), step.layer_names
          (1.0, ('w',))
        """
        recipe = self._recipe
        state = init_state(
            params, recipe.tx, key=key, extras=extras, precision=recipe.policy, **options_of(recipe.averagings),
            scaling=recipe.scaling, health=recipe.signals or False, trainable=recipe.trainable,
        )  # fmt: skip
        if self._mesh is not None:
            state = self.place(state)
        if self._layers is None:
            self._layers = group_layers(self.trained(state.params)).names
        return state

    def __call__(
        self, state: TrainState, batch: Batch, detail: str | None = None, /
    ) -> tuple[TrainState, Measurements]:
        """Takes a step.

        Args:
          state, batch: the state, which is donated, and the batch.
          detail: how much to measure: `"lean"` (loss, gradient norm), `"rows"` (that of every layer too), `"full"`
            (everything) or `"flush"` (what float16 would flush, too); by default what the settings say for this
            object's n-th call.

        Raises:
          UsageError: for an unknown detail.
        """
        # Where a step is part of something larger that is differentiated, what is donated would still be needed.
        # Outside of any transformation there are no tracers, and to look at every leaf takes a tenth of a call.
        traced = get_opaque_trace_state() != _OUTSIDE and any(
            isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, batch))
        )
        due = self._detail(detail)
        step = (self._traced if traced else self._compiled or self._compile_for(state))[due]
        if due not in self._taken and not traced:
            self._taken.add(due)
            if due in RARE and detail is None and self._calls:
                self._announce(due)
        programs, seconds = NOTICED.programs, NOTICED.seconds
        try:
            after, measurements = step(state, batch)
        except Exception as error:
            if isinstance(error, JaxpropError):
                raise
            told = mistake(error, self._recipe.tx, self.trained, state, batch, self._mesh, self._steps_per_call)
            if told is None:
                raise
            raise UsageError(told) from error
        self._calls += 1
        if NOTICED.programs != programs and not traced and isinstance(state, TrainState):  # not of a lane among others
            self._note_compilation(due, NOTICED.seconds - seconds, state, batch, silent=detail is not None)
        if measurements.layout.layers:
            self._layers = measurements.layout.layers
        return after, measurements

    def _note_compilation(self, due: str, seconds: float, state: TrainState, batch: Batch, silent: bool) -> None:
        """Takes note of a call that has compiled, and tells of it where the arguments have changed."""
        # A shorter stack, as at the end of a run, is a program of its own.
        stacked = jnp.shape(jax.tree.leaves(batch)[0])[0] if self._steps_per_call > 1 else 1
        step = self._calls * self._steps_per_call
        self._compilations.add((due, stacked), step, due, seconds, state, batch)
        said = self._compilations.made[-1].message
        if said and not silent:
            LOG.warning("jaxprop: the call of step %d %s", step, said)

    def _announce(self, due: str) -> None:
        """Says before the one slow call that it is slow, so that a loop which times its steps is not misled."""
        LOG.warning(
            "jaxprop: the call of step %d measures %s for the first time, for which it compiles a program of "
            "its own; leave it out where you time steps. health=False measures nothing rare, and "
            "logging.getLogger('jaxprop').setLevel('ERROR') hides this line.",
            (self._calls + 1) * self._steps_per_call,
            "everything, and what float16 would flush," if due == "flush" else "everything",
        )

    def trained(self, params: PyTree) -> PyTree:
        """Returns the parameters that are trained, in their structure, with None in place of the others."""
        return split(params, trainable_mask(self._recipe.trainable, params))

    def _detail(self, detail: str | None) -> str:
        if self._recipe.signals is None:
            return "lean"
        if detail is None:
            first = self._calls * self._steps_per_call + 1
            detail = self._recipe.signals.detail(first, first + self._steps_per_call - 1)
        if detail not in DETAILS:
            raise UsageError(one_of(detail, DETAILS, "detail"))
        return "full" if detail == "flush" and not self._flushes else detail

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the L layers, in the order of `m.layers`; known once the step has its state.

        Before the first call they are in the order of the parameters. The call traces the loss, after which they are in
        the order of the forward pass, with one row for every layer that a scan runs over.
        """
        if self._layers is None:
            raise UsageError("layer_names is known once the step has its state; call step.init(params, key=key) first")
        return self._layers

    @property
    def compilations(self) -> Sequence[Compilation]:
        """What the calls of this object have compiled, in order, with the seconds it took.

        Those with `changes` were made necessary by arguments unlike those of the calls before.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda p, b, key: jnp.mean(b["x"] * p["w"]), optax.sgd(0.1))
          >>> state = step.init({"w": jnp.ones(())}, key=jax.random.key(0))
          >>> for size in (4, 3):
          ...     state, _ = step(state, {"x": jnp.ones(size)}, "rows")
          >>> [[str(change) for change in made.changes] for made in step.compilations]
          [[], ['batch["x"]: float32[4] -> float32[3]']]
        """
        return self._compilations.made

    def find_nonfinite(self, state: TrainState, batch: Batch, *, examples: bool = True) -> Finding | None:
        """Finds what would make this step's loss or gradient NaN or infinite; nothing is donated.

        Args:
          state: before the step.
          batch: of the step.
          examples: look for the examples of the batch that bring it about.

        Returns:
          What `jaxprop.health.find_nonfinite` finds with the step's own parameters, extras, key and precision, or None.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda p, b, key: jnp.mean(jnp.log(b["x"] * p["w"])), optax.sgd(0.1))
          >>> state = step.init({"w": jnp.ones(())}, key=jax.random.key(0))
          >>> step.find_nonfinite(state, {"x": jnp.array([1.0, 0.0])}).primitive
          'log'
        """
        recipe, params = self._recipe, state.params
        mask, mean_loss = trainable_mask(recipe.trainable, params), recipe.objective.mean_loss
        # What is not trained has no gradient that could fail.
        objective = recipe.objective._replace(
            mean_loss=lambda trained, *rest: mean_loss(merge(trained, params, mask), *rest)
        )
        trained = state._replace(params=masters(split(params, mask), recipe.policy))
        return find_nonfinite(objective, trained, batch, precision=recipe.policy, examples=examples)

    def explain(self, state: TrainState, batch: Batch) -> Explanation:
        """Takes one step apart: what each layer, example and parameter does in it, and what the update would do.

        Nothing is donated, and the state stays as it is. The figures are computed again by plain automatic
        differentiation, and compared with those of the step; `jaxprop explain` shows the same of a configuration.

        Args:
          state: before the step.
          batch: of one step, without an axis of several steps.

        Returns:
          An object with a field for each stage; `print` shows it as text.

        Raises:
          UsageError: the loss or the gradient is not finite.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda p, b, key: jnp.mean(b["x"] * p["w"] ** 2), optax.sgd(0.1))
          >>> found = step.explain(step.init({"w": jnp.ones(())}, key=jax.random.key(0)), {"x": jnp.ones(2)})
          >>> found.ok, found.loss, round(found.loss_after, 2), found.parameters[0].grad_norm
          (True, 1.0, 0.64, 2.0)
        """
        signals = (self._recipe.signals or Signals())._replace(taps=True, curvature=False)
        recipe = self._recipe._replace(offloaded=False)
        take = jax.jit(variants(recipe._replace(signals=signals), 1)("full"))
        return explain(recipe, take, jax.jit(fetched)(state) if self._recipe.offloaded else state, batch)

    def eval_params(self, state: TrainState, average: str | None = None) -> PyTree:
        """Returns the parameters to evaluate with: their moving average, or what schedule-free training asks for.

        Args:
          state: of this step.
          average: which of several averages: `"ema_0.99"`, `"swa"`; default: the first.

        Raises:
          UsageError: the step keeps no average of that name.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda p, b, key: p["w"] ** 2, optax.sgd(0.1), ema_decay=0.9)
          >>> step.eval_params(step.init({"w": jnp.ones(())}, key=jax.random.key(0)))["w"].item()
          1.0

        Reference:
          Defazio et al., The Road Less Scheduled, 2024. https://arxiv.org/abs/2405.15682
        """
        return eval_params(self.picked(state, average), self._recipe.trainable)

    def eval_extras(self, state: TrainState, average: str | None = None) -> PyTree:
        """Returns the extras to evaluate with: the moving average of the floats among them where one is kept.

        Args:
          state: of this step.
          average: as of `eval_params`.
        """
        return eval_extras(self.picked(state, average))

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of the averages of the parameters that the state keeps, such as `ema_0.99` and `swa`."""
        return tuple(one.name for one in self._recipe.averagings)

    def picked(self, state: TrainState, average: str | None) -> TrainState:
        """Returns the state with one of its averages alone, which evaluations then use.

        Args:
          state: of this step.
          average: one of `averages`; None leaves the state as it is.

        Raises:
          UsageError: the step keeps no average of that name.
        """
        return chosen(self._recipe.averagings, state, average)

    def lower(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Any:
        """Traces the step without running it; `.compile()` gives its memory and cost analysis."""
        return (self._compiled or self._compile_for(state))[self._detail(detail)].lower(state, batch)

    def memory(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Memory | None:
        """Predicts the memory that a call needs on each device at its peak, by compiling it; nothing runs.

        Args:
          state, batch: arrays, or their shapes as `jax.eval_shape` returns them, which take no memory.
          detail: how much the call measures; `"full"` needs the most.

        Returns:
          The peak, its parts and its largest arrays with their layers and lines; `print` shows it as text. None where
          the backend does not report memory.

        Example:
          >>> import jaxprop, optax, jax.numpy as jnp
          >>> step = jaxprop.make_train_step(lambda p, b, key: jnp.mean((b @ p) ** 2), optax.adam(0.1))
          >>> state = jax.eval_shape(lambda: step.init(jnp.ones((8, 4)), key=jax.random.key(0)))
          >>> found = step.memory(state, jax.ShapeDtypeStruct((16, 8), jnp.float32))
          >>> found.parts["params"], found.parts["opt_state"]
          (128, 260)
        """
        # On a GPU, trying kernels out takes memory, which may have run out, and most of the time of compiling.
        # Elsewhere the program stays the run's own, and no compiler meets an option that it may not know.
        untried = {"xla_gpu_autotune_level": 0} if jax.default_backend() == "gpu" else None
        return predict(self.lower(state, batch, detail).compile(compiler_options=untried))

    def with_lane(self, lane: Lane) -> TrainStep:
        """Returns the step with programs that those of other runs are compiled with; see `jaxprop.train.lanes`."""
        own = self._recipe, self._steps_per_call, self._mesh, self._sharding, self._rules, self._compiler_options
        return TrainStep(*own, lane)

    def for_batches(self, count: int) -> TrainStep:
        """Returns the step for batches `count` times as large, in that many times more microbatches."""
        recipe = self._recipe._replace(accumulate=count * self._recipe.accumulate)
        return TrainStep(recipe, self._steps_per_call, self._mesh, self._sharding, self._rules, self._compiler_options)

    def place(self, state: TrainState) -> TrainState:
        """Returns a state of this step where it lies on the step's mesh; without one, as it is.

        Args:
          state: of this step; arrays that lie elsewhere are copied.
        """
        return state if self._mesh is None else place_state(state, self.shardings(state))

    def shardings(self, state: TrainState) -> PyTree:
        """Returns where each array of a state lies on the step's mesh.

        Args:
          state: arrays, or their shapes as `jax.eval_shape` returns them.

        Raises:
          UsageError: a rule does not fit the parameters, or `state_sharding` the state.
        """
        assert self._mesh is not None
        wanted = self._sharding
        if wanted is None:
            placing.check_rules(self._rules, state.params, self._mesh)
            specs = placing.parameter_specs(state.params, self._mesh, self._rules)
            wanted = placing.following(state.params, specs, self._mesh)
        placed = sharding.state_shardings(wanted, state, self._mesh)
        return offloaded(state, placed, self._mesh) if self._recipe.offloaded else placed

    def _compile_for(self, state: TrainState) -> dict[str, Any]:
        """The jitted step for every detail; with a mesh, shardings pinned on both sides so that nothing recompiles."""
        check_device(self._recipe.policy, jax.devices()[0] if self._mesh is None else self._mesh.devices.flat[0])
        chosen = fast_options(self._mesh) if self._compiler_options is None else self._compiler_options
        options: dict[str, Any] = {"compiler_options": chosen, "donate_argnums": 0}
        fits = isinstance(state, TrainState)  # else the call fails, and says why
        if self._mesh is not None and fits:
            whole = sharding.replicated(self._mesh)
            placed = self.shardings(state)
            options["in_shardings"] = (placed, sharding.batch_sharding(self._mesh, self._steps_per_call))
            options["out_shardings"] = (placed, whole)
        programs = self._lane.programs(self._steps_per_call, options)
        if fits:
            self._compiled = programs
        return programs
