"""The networks beside ILCS: the paper's sizes and costs, grey and colour alike, MIAM where it was asked for."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.table3 import Row, cost, parameters, table3_rows
from ilcs_model import create
from ilcs_model.export import fold_norms
from ilcs_model.info import options
from ilcs_model.networks.attention import MIAM
from ilcs_model.networks.effnet import EffNet
from ilcs_model.networks.ilcs import ILCS
from ilcs_model.networks.mobilenet_v2 import MobileNetV2
from ilcs_model.networks.resnet50 import ResNet50

OTHERS = ("resnet50", "mobilenet_v2", "effnet")


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.model: row for row in table3_rows()}


def size_of(name: str) -> int:
    """Side of a tile that the network takes; small where it takes any."""
    return 300 if name == "effnet" else 64


def lively(name: str, *, miam: bool = False) -> tuple[nn.Module, Tensor]:
    """A network for evaluation whose batch norms all do something, and tiles for it."""
    torch.manual_seed(0)
    network = create(name, 6, miam=miam)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.3, 0.3)
            m.momentum = 1.0  # one batch sets the statistics
    tiles = torch.randint(0, 256, (2, 1, size_of(name), size_of(name)), dtype=torch.uint8)
    with torch.no_grad():
        network.train()(tiles)
    return network.eval(), tiles


def relative(found: Tensor, right: Tensor) -> float:
    return ((found - right).abs().max() / right.abs().max()).item()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet50", 25_557_032),
        ("resnet50+miam", 25_573_434),
        ("mobilenet_v2", 2_231_558),
        ("mobilenet_v2+miam", 2_241_816),
        ("effnet", 2_212_966),
        ("effnet+miam", 2_215_032),
        ("ilcs", 2_235_886),
    ],
)
def test_every_row_of_table_3_has_the_papers_number_of_parameters(rows: dict[str, Row], model: str, expected: int) -> None:
    assert rows[model].parameters == expected
    assert round(expected / 1e6, 2) == rows[model].paper_params_m


@pytest.mark.parametrize("hidden", [3, 5, 80])
def test_no_other_width_of_a_plugged_in_miam_fits_table_3(rows: dict[str, Row], hidden: int) -> None:
    channels = {"resnet50": 2048, "mobilenet_v2": 1280, "effnet": 256}
    fits = [
        round((rows[name].parameters + parameters(MIAM(channels[name], hidden))) / 1e6, 2) == rows[f"{name}+miam"].paper_params_m
        for name in OTHERS
    ]

    assert not all(fits)


def test_costs_are_the_papers_where_they_can_be_derived(rows: dict[str, Row]) -> None:
    """ResNet and EffNet with two operations for each normalised value, ILCS without; MobileNet's 4.70 from no count tried."""
    for name in ("resnet50", "effnet"):
        assert round(rows[name].with_norms_g, 2) == rows[name].paper_flops_g
    assert round(rows["ilcs"].macs_g, 2) == rows["ilcs"].paper_flops_g
    assert rows["mobilenet_v2"].macs_g == pytest.approx(4.792, abs=1e-3)


def test_convolutions_of_ilcs_cost_what_the_paper_says() -> None:
    network = create("ilcs", 6)
    assert isinstance(network, ILCS)
    counted = cost(network, torch.zeros(1, 3, 224, 224, dtype=torch.uint8), lambda x: network.miam(network.features(x)))

    assert 16 * counted.convolutions / 1e9 == pytest.approx(4.2646, abs=1e-4)


def test_a_count_is_what_the_layers_do() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, groups=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))

    assert cost(network, torch.zeros(2, 3, 9, 9)) == (2 * 8 * 16 * 27, 2 * 128 * 5, 2 * 8 * 16)
    assert not network[0]._forward_hooks


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("miam", [False, True])
def test_grey_is_three_equal_channels(name: str, miam: bool) -> None:
    network, tiles = lively(name, miam=miam)

    with torch.inference_mode():
        assert relative(network(tiles), network(tiles.repeat(1, 3, 1, 1))) < 1e-3


def test_colours_are_told_apart() -> None:
    network, tiles = lively("mobilenet_v2")
    red, blue = (torch.cat([tiles if k == c else torch.zeros_like(tiles) for k in range(3)], 1) for c in (0, 2))

    with torch.inference_mode():
        assert relative(network(red), network(blue)) > 1e-2


@pytest.mark.parametrize(("name", "shape"), [("resnet50", (2048, 2, 2)), ("mobilenet_v2", (1280, 2, 2)), ("effnet", (256, 37, 37))])
def test_logits_are_the_classified_features(name: str, shape: tuple[int, ...]) -> None:
    """What a heat map relies on: the map before MIAM, and the way from there to the logits."""
    network, tiles = lively(name, miam=True)
    assert isinstance(network, ResNet50 | MobileNetV2 | EffNet)

    with torch.no_grad():
        features = network.features(tiles)
        assert features.shape == (2, *shape)
        assert torch.equal(network.classify(features), network(tiles))
        assert not torch.equal(network.miam(features), features)


@pytest.mark.parametrize("name", OTHERS)
def test_every_parameter_learns(name: str) -> None:
    network = create(name, 3, miam=True)
    tiles = torch.randint(0, 256, (4, 1, size_of(name), size_of(name)), dtype=torch.uint8)

    nn.functional.cross_entropy(network(tiles), torch.tensor([0, 1, 2, 0])).backward()

    assert [k for k, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_any_size_goes_without_miam_and_square_ones_with_it(name: str) -> None:
    plain, attentive = create(name, 2).eval(), create(name, 2, miam=True).eval()

    with torch.inference_mode():
        assert plain(torch.zeros(1, 1, 65, 130, dtype=torch.uint8)).shape == (1, 2)
        assert attentive(torch.zeros(1, 1, 65, 65, dtype=torch.uint8)).shape == (1, 2)
        with pytest.raises(ValueError, match="needs square tiles"):
            attentive(torch.zeros(1, 1, 65, 130, dtype=torch.uint8))


@pytest.mark.parametrize("name", OTHERS)
def test_only_ilcs_locates(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no option locate; it has miam"):
        create(name, 6, locate=True)


def test_ilcs_has_miam_either_way() -> None:
    assert options("ilcs", miam=True, locate=True) == {"locate": True}
    assert any(name.startswith("miam.") for name in create("ilcs", 6).state_dict())


@pytest.mark.parametrize(("name", "left"), [("resnet50", 0), ("mobilenet_v2", 0), ("effnet", 12)])
def test_folded_batch_norms_give_the_same_network(name: str, left: int) -> None:
    network, tiles = lively(name, miam=True)

    with torch.inference_mode():
        right = network(tiles)
        folded = fold_norms(network)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == left
        assert relative(folded(tiles), right) < 1e-3
