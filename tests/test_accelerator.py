"""The joint density on an accelerator: the same numbers as on the CPU of the same machine."""

import jax
import numpy as np
import pytest


@pytest.mark.gpu
def test_density_and_gradient_agree_with_the_cpu(tiny_model):
    data = tiny_model.data
    draws = [tiny_model.draw_prior(jax.random.key(seed), data) for seed in range(4)]
    density = jax.value_and_grad(lambda sites, data: tiny_model.log_density(sites, data))
    found = {}
    for name in (jax.default_backend(), "cpu"):
        device = jax.devices(name)[0]
        placed = jax.device_put(data, device)
        run = jax.jit(density)
        found[name] = [run(jax.device_put(draw, device), placed) for draw in draws]
    assert len(found) == 2
    for (value, gradient), (expected, slope) in zip(*found.values(), strict=True):
        np.testing.assert_allclose(float(value), float(expected), rtol=1e-8)
        size = max(float(np.abs(x).max()) for x in jax.tree.leaves(slope))
        for name, g in gradient.items():
            np.testing.assert_allclose(
                np.asarray(g), np.asarray(slope[name]), rtol=1e-6, atol=1e-8 * size, err_msg=name
            )
