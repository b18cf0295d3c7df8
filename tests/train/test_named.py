"""Optimizers whose function in optax has no `learning_rate`, against arithmetic done by hand."""

import jax.numpy as jnp
import numpy as np
import optax

from jaxprop.train.named import NAMED, polyak_sgd, sam

PARAMS = {"w": jnp.array([3.0, 4.0])}


def test_the_polyak_step_is_that_of_the_loss_and_at_most_the_rate():
    for rate, expected in ((1.0, 12.5 / 25), (0.1, 0.1)):  # half the squares is 12.5, and the gradient 5 long
        tx = polyak_sgd(rate, scaling=1.0, f_min=0.0, eps=0.0, variant="sps")
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(12.5))
        np.testing.assert_allclose(updates["w"], -expected * PARAMS["w"], rtol=1e-6)


def test_sam_follows_the_gradient_at_the_second_point():
    tx, params, velocity = sam(0.1, rho=0.5, momentum=0.9, nesterov=False), PARAMS, np.zeros(2)
    state, hand = tx.init(params), np.array([3.0, 4.0])
    for _ in range(3):
        grads = {"w": params["w"] ** 3}
        updates, state = tx.update(grads, state, params, grad_fn=lambda p, _: {"w": p["w"] ** 3})
        params = optax.apply_updates(params, updates)
        gradient = hand**3
        second = (hand + 0.5 * gradient / np.linalg.norm(gradient)) ** 3
        velocity = 0.9 * velocity + second
        hand = hand - 0.1 * velocity
    np.testing.assert_allclose(params["w"], hand, rtol=1e-4)


def test_every_one_of_them_is_tested():
    assert set(NAMED) == {"polyak_sgd", "sam"}
