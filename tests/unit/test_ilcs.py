"""The network is the paper's: sizes, parameter count, multiply-accumulates, equations; and its short cut is exact."""

import pytest
import torch
from torch import nn

from ilcs_model import create
from ilcs_model.networks.attention import MIAM, ChannelAttention, SpatialAttention, interact
from ilcs_model.networks.ilcs import ILCS, LCSBlock, histogram


@pytest.fixture
def tiles() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 1, 300, 300), dtype=torch.uint8)


def first_block(network: ILCS) -> LCSBlock:
    block = network.blocks[0]
    assert isinstance(block, LCSBlock)
    return block


def test_it_has_the_papers_number_of_parameters() -> None:
    """Table 3: 2.24 M."""
    assert sum(p.numel() for p in create("ilcs", 6).parameters()) == 2_235_886


def test_its_convolutions_cost_what_the_paper_says() -> None:
    """Table 3: 4.26 G, which are multiply-accumulates for a batch of 16 at 224 x 224."""
    total = 0

    def count(module: nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    network = ILCS()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network.miam(network.features(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)))

    assert round(16 * total / 1e9, 2) == 4.26


def test_maps_have_the_sizes_of_table_1(tiles: torch.Tensor) -> None:
    network = ILCS().eval()
    sizes = []
    for block in network.blocks:
        assert isinstance(block, LCSBlock)
        block.conv4.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))

    with torch.inference_mode():
        logits = network(tiles)

    assert sizes == [(64, 150, 150), (128, 75, 75), (256, 37, 37)]
    assert logits.shape == (2, 6)


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_the_grey_short_cut_gives_the_same_as_three_equal_channels(tiles: torch.Tensor, training: bool, invariant: bool) -> None:
    """Outputs, and in training the batch-norm statistics too."""
    tiles[1] //= 3  # the tiles differ in light
    short = ILCS(invariant=invariant).train(training)
    norm = first_block(short).bn1
    nn.init.normal_(norm.weight)  # both signs: max and min pooling
    nn.init.normal_(norm.bias)
    full = ILCS(invariant=invariant).train(training)
    full.load_state_dict(short.state_dict())

    with torch.no_grad():
        difference = (short(tiles) - full(tiles.repeat(1, 3, 1, 1))).abs().max()

    assert difference < 1e-4
    for a, b in zip(short.buffers(), full.buffers(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


def test_the_short_cut_has_the_same_gradient(tiles: torch.Tensor) -> None:
    short = ILCS().train()
    full = ILCS().train()
    full.load_state_dict(short.state_dict())

    first = first_block(short)
    first.tail(short.grey(tiles, first)).square().mean().backward()
    full.blocks[0]((tiles.repeat(1, 3, 1, 1).float() / 255 - 0.4) / 0.2).square().mean().backward()

    for (name, a), b in zip(first.named_parameters(), full.blocks[0].parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=2e-2, atol=1e-4), name


def test_the_invariant_form_sees_neither_light_nor_contrast(tiles: torch.Tensor) -> None:
    network = ILCS(invariant=True).eval()
    small = tiles[:, :, :208, :208] // 4 + 64  # 64 to 127: can be doubled without clipping
    lit = small * 2 - 100

    with torch.inference_mode():
        plain, other = network(small), network(lit)

    assert plain.shape == (2, 6)
    assert (plain - other).abs().max() < 0.01 * plain.abs().max()


def test_the_invariant_form_does_not_blow_up_a_tile_that_shows_nothing() -> None:
    network = ILCS(invariant=True).eval()
    flat = torch.full((1, 1, 304, 304), 128, dtype=torch.uint8)
    speck = flat.clone()
    speck[0, 0, 150, 150] += 1

    with torch.inference_mode():
        assert torch.isfinite(network(flat)).all()
        assert (network.grey(flat, network.blocks[0]) - network.grey(speck, network.blocks[0])).abs().max() < 1


def test_the_invariant_form_is_as_large_as_said() -> None:
    """The first linear layer is all the difference: 256 inputs instead of 350,464."""
    assert sum(p.numel() for p in create("ilcs", 6, invariant=True).parameters()) == 2_235_886 - 6 * (350_464 - 256)


def test_a_grey_histogram_counts_every_pixel(tiles: torch.Tensor) -> None:
    found = histogram(tiles)

    assert found[0, 7] == pytest.approx((tiles[0] == 7).float().mean().item())
    assert torch.allclose(found.sum(1), torch.ones(2))


def test_channel_attention_is_equation_6() -> None:
    torch.manual_seed(1)
    attention, f = ChannelAttention(32), torch.randn(2, 32, 5, 7)

    mlp = attention.w1.weight @ attention.w0.weight
    expected = torch.sigmoid(f.mean((2, 3)) @ mlp.T + f.amax((2, 3)) @ mlp.T)

    assert torch.allclose(attention(f)[:, :, 0, 0], expected, atol=1e-6)


def test_spatial_attention_is_equation_4() -> None:
    torch.manual_seed(1)
    attention, f = SpatialAttention(), torch.randn(2, 8, 5, 7)

    pooled = torch.stack([f.mean(1), f.amax(1)], 1)
    expected = torch.sigmoid(nn.functional.conv2d(pooled, attention.conv.weight, padding=1))

    assert torch.allclose(attention(f), expected, atol=1e-6)


def test_miam_is_equations_8_to_11_and_fits_any_square_map() -> None:
    miam, f = MIAM(24), torch.randn(2, 24, 9, 9)

    f1 = miam.channel(f) * f
    expected = miam.spatial(f1) * f1 + f * f.transpose(2, 3)

    assert torch.allclose(miam(f), expected)


def test_interactive_attention_refuses_what_it_cannot_transpose() -> None:
    with pytest.raises(ValueError, match="square"):
        interact(torch.zeros(1, 1, 3, 4))


def test_lcs_is_a_block_like_any_other() -> None:
    assert LCSBlock(3, 8, 16).eval()(torch.zeros(1, 3, 11, 20)).shape == (1, 16, 5, 10)


@pytest.mark.parametrize(("name", "classes"), [("alexnet", 6), ("ilcs", 1)])
def test_what_cannot_be_built_is_refused(name: str, classes: int) -> None:
    with pytest.raises(ValueError, match=r"unknown model|at least two"):
        create(name, classes)
