"""Whether `jaxprop.gradcheck` accuses correct gradients: functions of jax and optax, with custom rules and kinks.

    python scripts/bench_gradcheck.py [NAME ...]

Prints a line for each function that is accused, or that cannot be checked, and how many were not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import jax.scipy.special as special
import numpy as np
import optax
from jax import nn

import jaxprop
from jaxprop.tools.gradcheck import Report

# name -> function of a 4 x 3 array with entries in 0.05..0.95
FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    **{name: getattr(special, name) for name in (
        "entr", "expi", "exp1", "erfinv", "ndtri", "gammaln", "digamma", "i0", "i1", "logit", "spence",
    )},
    **{name: getattr(nn, name) for name in (
        "softmax", "log_softmax", "gelu", "selu", "celu", "relu6", "hard_tanh", "mish", "squareplus", "log_sigmoid",
        "sparse_plus", "standardize", "logmeanexp",
    )},
    "xlogy": lambda w: special.xlogy(w, w + 0.1),
    "xlog1py": lambda w: special.xlog1py(w, w),
    "kl_div": lambda w: special.kl_div(w, w[::-1] + 0.01),
    "rel_entr": lambda w: special.rel_entr(w, w[::-1] + 0.1),
    "expn": lambda w: special.expn(2, w),
    "log_ndtr": lambda w: special.log_ndtr(-8 * w),
    "betainc": lambda w: special.betainc(2.0, 3.0, w),
    "gammainc": lambda w: special.gammainc(2.0, w),
    "zeta": lambda w: special.zeta(2 + w, 1.5),
    "gelu, exact": lambda w: nn.gelu(w, approximate=False),
    "glu": lambda w: nn.glu(w[:, :2]),
    "logsumexp": lambda w: nn.logsumexp(w, axis=0),
    "attention": lambda w: nn.dot_product_attention(*[w[None, :, None]] * 3),
    "logaddexp2": lambda w: jnp.logaddexp2(w, w[::-1]),
    "sinc": jnp.sinc,
    "pinv": jnp.linalg.pinv,
    "svd": lambda w: jnp.linalg.svd(w, compute_uv=False),
    "eigh": lambda w: jnp.linalg.eigh(w[:3] + w[:3].T)[0],
    "cholesky": lambda w: jnp.linalg.cholesky(w.T @ w + jnp.eye(3)),
    "solve": lambda w: jnp.linalg.solve(w[:3], w[1:]),
    "expm": lambda w: jax.scipy.linalg.expm(w[:3]),
    "cummax": jax.lax.cummax,
    "top_k": lambda w: jax.lax.top_k(w, 2)[0],
    "max-pool": lambda w: jax.lax.reduce_window(w, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID"),
    "convolve": lambda w: jnp.convolve(w.ravel(), w.ravel()),
    "interp": lambda w: jnp.interp(w.ravel(), jnp.linspace(0, 1, 5), jnp.arange(5.0) ** 2),
    "median": jnp.median,
    "quantile": lambda w: jnp.quantile(w, 0.3),
    "safe_norm": lambda w: optax.safe_norm(w - w, 1e-3, axis=0) + optax.safe_norm(w, 1e-3, axis=0),
    "ctc": lambda w: optax.ctc_loss(w[None], jnp.zeros((1, 4)), jnp.array([[1, 2]]), jnp.zeros((1, 2))),
    "focal": lambda w: optax.losses.sigmoid_focal_loss(w, jnp.ones_like(w)),
    "simplex": lambda w: optax.projections.projection_simplex(w.ravel()),
    "sparsemax": lambda w: optax.losses.sparsemax_loss(w, jnp.ones_like(w)),
}  # fmt: skip


def check(function: Callable[[jax.Array], jax.Array]) -> Report:
    """Checks a weighted sum of a function's results, so that nothing cancels."""
    params = {"w": np.random.default_rng(0).uniform(0.05, 0.95, size=(4, 3)).astype(np.float32)}

    def loss_fn(params, _batch, _key):
        out = function(params["w"])
        return jnp.sum(jnp.cos(jnp.arange(out.size)).reshape(out.shape) * out)

    return jaxprop.gradcheck(loss_fn, params, {"x": np.ones(1)}, entries=4, directions=1)


def main() -> None:
    """Checks the chosen functions, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FUNCTIONS)}")
    names = parser.parse_args().names or [*FUNCTIONS]
    accused = 0
    for name in names:
        report = check(FUNCTIONS[name])
        accused += not report.ok
        for sentence in (*report.problems, *report.notes):
            print(f"{name}: {sentence}", flush=True)
    print(f"{accused} of {len(names)} accused")


if __name__ == "__main__":
    main()
