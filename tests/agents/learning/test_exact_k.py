import pytest
import torch

from activemri.agents.learning.exact_k import draw, largest, probabilities

ALLOWED = torch.tensor([[True] * 7, [True, False, True, True, False, True, True]])
K = torch.tensor([3, 2])


def some_scores(spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(2, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_probabilities_add_up_to_k(spread: float) -> None:
    found = probabilities(some_scores(spread), ALLOWED, K)
    torch.testing.assert_close(found.sum(dim=1), K.double())
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((found[~ALLOWED] == 0).all())


def test_probabilities_of_equal_scores_are_equal() -> None:
    found = probabilities(torch.zeros(1, 7, dtype=torch.float64), ALLOWED[1:], K[1:])
    torch.testing.assert_close(found[ALLOWED[1:]], torch.full((5,), 0.4, dtype=torch.float64))


def test_everything_is_drawn_where_no_more_is_allowed() -> None:
    for k in (5, 9):
        found = probabilities(some_scores()[1:], ALLOWED[1:], torch.tensor([k]))
        assert torch.equal(found, ALLOWED[1:].double())


def test_the_gradient_of_probabilities_takes_the_threshold_along() -> None:
    scores = some_scores().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: probabilities(s, ALLOWED, K), scores, atol=1e-6)


def test_a_draw_holds_exactly_k_allowed_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        taken = draw(some_scores(), ALLOWED, K, generator=generator)
        assert taken.sum(dim=1).tolist() == K.tolist()
        assert bool((taken[~ALLOWED] == 0).all())
        assert set(taken.unique().tolist()) <= {0.0, 1.0}


def test_actions_are_drawn_as_often_as_their_probabilities_say() -> None:
    n, generator = 20_000, torch.Generator().manual_seed(0)
    for row in (0, 1):
        scores, allowed = some_scores()[[row]], ALLOWED[[row]].expand(n, -1)
        taken = draw(scores.expand(n, -1), allowed, K[row].expand(n), generator=generator)
        wanted = probabilities(scores, allowed[:1], K[[row]])[0]
        # Pareto sampling is not exact at 7 actions; noise of the count is 0.0035.
        torch.testing.assert_close(taken.mean(dim=0), wanted, rtol=0, atol=0.02)


def test_a_draw_has_the_gradient_of_the_probabilities() -> None:
    weight = torch.arange(14, dtype=torch.float64).view(2, 7)
    hard, soft = (some_scores().requires_grad_(True) for _ in range(2))
    (weight * draw(hard, ALLOWED, K, generator=torch.Generator())).sum().backward()
    (weight * probabilities(soft, ALLOWED, K)).sum().backward()
    assert soft.grad is not None and hard.grad is not None
    torch.testing.assert_close(hard.grad, soft.grad)
    assert float(soft.grad.abs().max()) > 0.1


def test_the_largest_are_the_best_of_those_allowed() -> None:
    scores = torch.tensor([[5.0, 9.0, 1.0, 3.0, 8.0, 2.0, 4.0]])
    assert largest(scores, ALLOWED[1:], torch.tensor([2])).nonzero()[:, 1].tolist() == [0, 6]
