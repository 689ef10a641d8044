import torch

from hemseg_cli.models.activation import probabilities


def test_softmax_is_torchs_with_a_background_of_logit_0() -> None:
    logits = 4 * torch.randn((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    background = torch.zeros((2, 1, 4, 5, 6))
    expected = torch.softmax(torch.cat([background, logits], dim=1), dim=1)[:, 1:]
    torch.testing.assert_close(probabilities(logits, "softmax", axis=1), expected)


def test_one_class_is_the_sigmoid_either_way() -> None:
    logits = 30 * torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        probabilities(logits, "softmax", axis=0), probabilities(logits, "sigmoid", axis=0)
    )


def test_large_logits_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[200.0, -200.0], [100.0, -300.0]])
    found = probabilities(logits, "softmax", axis=0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_in_place_gives_the_same() -> None:
    logits = torch.randn((2, 3, 4))
    for activation in ("sigmoid", "softmax"):
        expected = probabilities(logits.clone(), activation, axis=0)
        found = probabilities(logits.clone(), activation, axis=0, in_place=True)
        assert torch.equal(found, expected)
