"""The states against closed forms."""

from math import atan2, cos, hypot, pi, sin

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import binom

from examples.singlequdit import spin

SIZES = [1, 2, 3, 10, 51, 500]


def mean_and_variance(state: spin.State) -> tuple[float, float]:
    outcomes = np.arange(len(state))
    weights = spin.probabilities(state)
    mean = float(weights @ outcomes)
    return mean, float(weights @ (outcomes - mean) ** 2)


def equatorial(n_atoms: int) -> spin.State:
    """All atoms' spins along -y."""
    return spin.rotate_x(spin.polarized(n_atoms), pi / 2)


def dense_spin(n_atoms: int) -> tuple[spin.State, spin.State, spin.State]:
    """Lx, Ly, Lz built from Lz's ladder, independently of the module."""
    length = n_atoms / 2
    m = [length - k for k in range(n_atoms + 1)]
    raising = np.zeros((n_atoms + 1, n_atoms + 1), dtype=np.complex128)
    for k in range(1, n_atoms + 1):
        raising[k - 1, k] = np.sqrt(length * (length + 1) - m[k] * (m[k] + 1))
    lowering = raising.conj().T
    return (raising + lowering) / 2, (raising - lowering) / 2j, np.diag(m).astype(np.complex128)


@pytest.mark.parametrize("n_atoms", SIZES)
def test_initial_state_measures_zero(n_atoms: int) -> None:
    assert mean_and_variance(spin.polarized(n_atoms)) == (0, 0)
    assert spin.mean_spin(spin.polarized(n_atoms)) == pytest.approx([0, 0, n_atoms / 2])


@pytest.mark.parametrize("n_atoms", SIZES)
@pytest.mark.parametrize("angle", [0, 0.3, pi / 2, 2.5, pi, 2 * pi])
def test_rabi_rotation_gives_the_binomial_distribution(n_atoms: int, angle: float) -> None:
    chance = sin(angle / 2) ** 2

    state = spin.rotate_x(spin.polarized(n_atoms), angle)

    expected = (n_atoms * chance, n_atoms * chance * (1 - chance))
    assert mean_and_variance(state) == pytest.approx(expected, abs=1e-9)
    exact = binom.pmf(np.arange(n_atoms + 1), n_atoms, chance)
    np.testing.assert_allclose(spin.probabilities(state), exact, atol=1e-12)


@pytest.mark.parametrize("n_atoms", SIZES)
@pytest.mark.parametrize("phase", [0, 0.4, pi / 2, pi, 5.0])
def test_ramsey_fringe(n_atoms: int, phase: float) -> None:
    state = spin.rotate_x(spin.rotate_z(equatorial(n_atoms), phase), pi / 2)

    mean, variance = mean_and_variance(state)

    assert mean == pytest.approx(n_atoms / 2 * (1 + cos(phase)), abs=1e-9)
    assert variance == pytest.approx(n_atoms / 4 * sin(phase) ** 2, abs=1e-9)


@pytest.mark.parametrize("n_atoms", SIZES)
@pytest.mark.parametrize("chi", [0, 0.01, 0.2, 1.0, pi / 2, pi])
def test_one_axis_twisting_shortens_the_mean_spin(n_atoms: int, chi: float) -> None:
    """exp(-i chi Lz^2) leaves |<L>| = N/2 cos^(N-1)(chi), here along -y."""
    state = spin.twist(equatorial(n_atoms), chi)

    expected = [0, -n_atoms / 2 * cos(chi) ** (n_atoms - 1), 0]
    assert spin.mean_spin(state) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n_atoms", [2, 3, 10, 51, 500])
@pytest.mark.parametrize("chi", [0.001, 0.01, 0.05, 0.2, 1.0])
def test_squeezed_variances_are_those_of_kitagawa_and_ueda(n_atoms: int, chi: float) -> None:
    """Phys. Rev. A 47, 5138 (1993): V = S/2 {1 + (S - 1/2)/2 (A -+ sqrt(A^2 + B^2))}, mu = 2 chi."""
    length = n_atoms / 2
    a = 1 - cos(2 * chi) ** (n_atoms - 2)
    b = 4 * sin(chi) * cos(chi) ** (n_atoms - 2)
    root = hypot(a, b)
    state = spin.rotate_z(spin.twist(equatorial(n_atoms), chi), pi / 2)

    across = spin.spin_covariance(state)[1:, 1:]
    turned = spin.rotate_x(state, -atan2(b, a) / 2)

    expected = [length / 2 * (1 + (length - 0.5) / 2 * (a + sign * root)) for sign in (-1, 1)]
    np.testing.assert_allclose(np.linalg.eigvalsh(across), expected, rtol=1e-8)
    assert mean_and_variance(turned) == pytest.approx((length, expected[0]), rel=1e-8)


@pytest.mark.parametrize("n_atoms", [1, 2, 5, 12])
def test_full_evolution_is_the_matrix_exponential(n_atoms: int) -> None:
    lx, _, lz = dense_spin(n_atoms)
    start = spin.twist(spin.rotate_x(spin.polarized(n_atoms), 0.7), 0.4)

    state = spin.evolve(start, 1.1, 0.6, 0.3)

    exact = expm(-1j * (1.1 * lx + 0.6 * lz + 0.3 * lz @ lz)) @ start
    np.testing.assert_allclose(state, exact, atol=1e-12)


@pytest.mark.parametrize("n_atoms", [1, 2, 7])
def test_moments_agree_with_dense_matrices(n_atoms: int) -> None:
    state = spin.evolve(spin.polarized(n_atoms), 0.9, 0.5, 0.8)
    operators = dense_spin(n_atoms)

    mean, covariance = spin.mean_spin(state), spin.spin_covariance(state)

    exact_mean = [np.vdot(state, op @ state).real for op in operators]
    exact = [
        [
            np.vdot(state, (a @ b + b @ a) @ state).real / 2 - x * y
            for b, y in zip(operators, exact_mean, strict=True)
        ]
        for a, x in zip(operators, exact_mean, strict=True)
    ]
    np.testing.assert_allclose(mean, exact_mean, atol=1e-12)
    np.testing.assert_allclose(covariance, exact, atol=1e-12)


@pytest.mark.parametrize("n_atoms", SIZES)
def test_evolution_keeps_the_norm(n_atoms: int) -> None:
    state = spin.polarized(n_atoms)
    for _ in range(20):
        state = spin.evolve(spin.twist(spin.rotate_x(state, 0.7), 60.0), 3.0, 2.0, 0.1)

    assert np.linalg.norm(state) == pytest.approx(1, abs=1e-10)


def test_single_terms_of_the_full_evolution_are_the_gates() -> None:
    state = equatorial(20)

    np.testing.assert_allclose(spin.evolve(state, 0.9, 0, 0), spin.rotate_x(state, 0.9), atol=1e-12)
    np.testing.assert_allclose(spin.evolve(state, 0, 0.9, 0), spin.rotate_z(state, 0.9), atol=1e-12)
    np.testing.assert_allclose(spin.evolve(state, 0, 0, 0.9), spin.twist(state, 0.9), atol=1e-12)
