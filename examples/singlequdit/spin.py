"""One collective spin L = N/2 of N two-level atoms: states, evolution, moments. Exact, no sampling.

A state is a complex vector of N + 1 amplitudes. Amplitude k belongs to k atoms having left the initial
state, that is to the eigenvalue N/2 - k of Lz, so a measurement of the initial state gives 0. Angles are in
radians; spins in units of hbar.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

State = NDArray[np.complex128]
Reals = NDArray[np.float64]


def polarized(n_atoms: int) -> State:
    """All `n_atoms` atoms in the initial state: Lz = N/2."""
    state = np.zeros(n_atoms + 1, dtype=np.complex128)
    state[0] = 1
    return state


def rotate_x(state: State, angle: float) -> State:
    """Apply exp(-i angle Lx), in the eigenbasis of Lx, which is kept for each N."""
    basis = _lx_basis(_atoms(state))
    # The eigenvalues of Lx are known; those found numerically are a little off.
    phases: State = np.exp(1j * angle * lz_values(_atoms(state)))
    return _from_basis(basis, phases, state)


def rotate_z(state: State, angle: float) -> State:
    """Apply exp(-i angle Lz)."""
    phases: State = np.exp(-1j * angle * lz_values(_atoms(state)))
    return phases * state


def twist(state: State, chi: float) -> State:
    """Apply exp(-i chi Lz^2): one-axis twisting; Kitagawa and Ueda's mu is 2 chi."""
    phases: State = np.exp(-1j * chi * lz_values(_atoms(state)) ** 2)
    return phases * state


def evolve(state: State, omega: float, delta: float, chi: float) -> State:
    """Apply exp(-i (omega Lx + delta Lz + chi Lz^2)).

    Phases are good to about 1e-15 of the largest one, (|omega| + |delta|) N/2 + |chi| N^2/4.
    """
    n_atoms = _atoms(state)
    lz = lz_values(n_atoms)
    energies, basis = _eigensystem(delta * lz + chi * lz**2, omega * _lx_off_diagonal(n_atoms))
    phases: State = np.exp(-1j * energies)
    return _from_basis(basis, phases, state)


def probabilities(state: State) -> Reals:
    """Chance of each outcome 0 to N of a measurement; sums to one."""
    weights: Reals = np.abs(state) ** 2
    weights /= weights.sum()
    return weights


def mean_spin(state: State) -> Reals:
    """The three expectation values of Lx, Ly, Lz."""
    mean: Reals = (_spin_applied(state) @ state.conj()).real
    return mean


def spin_covariance(state: State) -> Reals:
    """The 3 x 3 symmetrized covariances <Li Lj + Lj Li>/2 - <Li><Lj>."""
    applied = _spin_applied(state)
    mean = mean_spin(state)
    moments: Reals = (applied.conj() @ applied.T).real
    return moments - np.outer(mean, mean)


def lz_values(n_atoms: int) -> Reals:
    """Eigenvalues of Lz in the order of the amplitudes: N/2 down to -N/2."""
    return np.linspace(n_atoms / 2, -n_atoms / 2, n_atoms + 1)


def _atoms(state: State) -> int:
    return len(state) - 1


def _lx_off_diagonal(n_atoms: int) -> Reals:
    """Elements <k+1|Lx|k> = sqrt((k + 1)(N - k))/2; all others of Lx are zero."""
    k = np.arange(n_atoms)
    elements: Reals = np.sqrt((k + 1) * (n_atoms - k)) / 2
    return elements


def _from_basis(basis: Reals, phases: State, state: State) -> State:
    """Multiply each of the orthonormal columns' shares of `state` by its phase."""
    evolved: State = basis @ (phases * (basis.T @ state))
    return evolved


@lru_cache(maxsize=16)
def _lx_basis(n_atoms: int) -> Reals:
    """Eigenvectors of Lx as columns, eigenvalue -N/2 first; read-only, 2 MB for 500 atoms."""
    _, basis = _eigensystem(np.zeros(n_atoms + 1), _lx_off_diagonal(n_atoms))
    basis.setflags(write=False)
    return basis


def _eigensystem(diagonal: Reals, off_diagonal: Reals) -> tuple[Reals, Reals]:
    """Eigenvalues, rising, and eigenvectors as columns of a symmetric tridiagonal matrix."""
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
    return np.asarray(values, dtype=np.float64), np.asarray(vectors, dtype=np.float64)


def _spin_applied(state: State) -> State:
    """The three vectors Lx|state>, Ly|state>, Lz|state> as rows."""
    elements = 2 * _lx_off_diagonal(_atoms(state))
    raised = np.append(elements * state[1:], 0)
    lowered = np.insert(elements * state[:-1], 0, 0)
    lz = lz_values(_atoms(state)) * state
    return np.stack([(raised + lowered) / 2, (raised - lowered) / 2j, lz])
