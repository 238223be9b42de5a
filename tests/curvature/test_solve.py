import pytest
import torch

from excise import errors
from excise.curvature import conjugate_gradient, published_woodfisher


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(eigenvalues, seed=1):
    basis, _ = torch.linalg.qr(draws(len(eigenvalues), len(eigenvalues), seed=seed))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


class Counted:
    """A matrix that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.calls = matrix, 0

    def __call__(self, vector):
        self.calls += 1
        return self.matrix @ vector


@pytest.mark.parametrize("damping", [0.0, 0.1, 1.0])
def test_it_is_the_dense_solution(damping):
    gradients, target = draws(30, 12), draws(12, seed=2)
    matrix = gradients.T @ gradients / 30
    found = conjugate_gradient(lambda v: matrix @ v, target, damping=damping, tolerance=1e-13, max_iterations=50)
    wanted = torch.linalg.solve(matrix + damping * torch.eye(12, dtype=torch.float64), target)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_as_many_products_suffice_as_there_are_distinct_eigenvalues(distinct):
    product = Counted(matrix_of(([1.0, 2.0, 5.0, 9.0][:distinct] * 8)[:8]))
    target = draws(8, seed=3)
    conjugate_gradient(product, target, damping=0.5, tolerance=1e-10, max_iterations=distinct)
    assert product.calls == distinct


def test_damping_makes_a_singular_system_solvable():
    matrix, target = matrix_of([0.0, 0.0, 1.0, 2.0]), draws(4, seed=4)
    found = conjugate_gradient(lambda v: matrix @ v, target, damping=1e-2, tolerance=1e-12, max_iterations=9)
    torch.testing.assert_close(matrix @ found + 1e-2 * found, target, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-8])
def test_it_stops_at_the_tolerance_and_not_long_before(tolerance):
    matrix, target = matrix_of([float(2**power) for power in range(12)]), draws(12, seed=5)
    product = Counted(matrix)
    found = conjugate_gradient(product, target, damping=0.0, tolerance=tolerance, max_iterations=100)
    assert float((matrix @ found - target).norm() / target.norm()) <= tolerance * (1 + 1e-6)
    with pytest.raises(errors.Refused, match="the solve stopped after"):
        conjugate_gradient(product, target, damping=0.0, tolerance=tolerance, max_iterations=product.calls - 1)


def test_nothing_to_solve_for_costs_nothing():
    product = Counted(matrix_of([1.0, 2.0]))
    found = conjugate_gradient(
        product, torch.zeros(2, dtype=torch.float64), damping=0.0, tolerance=0.0, max_iterations=3
    )
    assert (found.tolist(), product.calls) == ([0.0, 0.0], 0)


def test_the_target_is_left_alone_and_gradients_are_not_recorded():
    matrix, target = matrix_of([1.0, 3.0]).requires_grad_(), draws(2, seed=6)
    before = target.clone()
    found = conjugate_gradient(lambda v: matrix @ v, target, damping=0.0, tolerance=1e-12, max_iterations=2)
    assert torch.equal(target, before)
    assert not found.requires_grad


def test_too_few_iterations_are_refused_with_the_residual():
    matrix, target = matrix_of([1.0, 10.0, 100.0]), draws(3, seed=7)
    with pytest.raises(
        errors.Refused,
        match=r"^the solve stopped after 1 iterations at a relative residual of [\d.e-]+, above the tolerance 0.001; "
        r"nothing was changed; raise damping \(now 0\), max_iterations or tolerance$",
    ):
        conjugate_gradient(lambda v: matrix @ v, target, damping=0.0, tolerance=1e-3, max_iterations=1)


@pytest.mark.parametrize(
    ("eigenvalues", "curvature"), [([-1.0, -1.0], "-"), ([0.0, 0.0], "0 "), ([torch.nan] * 2, "nan ")]
)
def test_a_direction_without_positive_curvature_is_refused(eigenvalues, curvature):
    matrix = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
    with pytest.raises(
        errors.Refused,
        match=rf"^the solve met a direction of curvature {curvature}.*in iteration 1; .*raise damping \(now 0\)$",
    ):
        conjugate_gradient(lambda v: matrix @ v, draws(2), damping=0.0, tolerance=1e-3, max_iterations=5)


def spelled_out(gradients, target, total):
    """The published loop, on lists of numbers."""

    def dot(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True))

    k, o = list(target), None
    for g in gradients:
        if o is None:
            o = list(g)
        else:
            t = dot(o, g)
            c = dot(k, g) / (total + t)
            k = [a - c * b for a, b in zip(k, o, strict=True)]
            o = [b - t / (total + t) * b for b in o]
    return k


@pytest.mark.parametrize("total", [3, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_published_recursion_number_by_number(count, total):
    gradients, target = draws(count, 5), draws(5, seed=8)
    before = target.clone()
    found = published_woodfisher(iter(gradients), target, total)
    wanted = spelled_out(gradients.tolist(), target.tolist(), total)
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    assert torch.equal(target, before)


def test_the_published_recursion_moves_along_the_first_gradient_alone():
    gradients, target = draws(20, 7), draws(7, seed=9)
    moved = published_woodfisher(gradients, target, 20) - target
    cosine = float(moved @ gradients[0] / (moved.norm() * gradients[0].norm()))
    assert abs(cosine) == pytest.approx(1.0, abs=1e-12)
    meant = torch.linalg.solve(gradients.T @ gradients / 20 + torch.eye(7, dtype=torch.float64), target)
    assert float((target + moved - meant).norm()) > 0.1 * float(target.norm())
