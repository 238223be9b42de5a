import pytest
import torch
from torch import nn

from excise import errors
from excise.networks.resnet import Bottleneck, resnet18, resnet50, tiny_resnet

SMALL = {
    "resnet18": lambda **options: resnet18(**{"width": 4, **options}),
    "resnet18-imagenet": lambda **options: resnet18(**{"width": 4, "stem": "imagenet", **options}),
    "resnet50": lambda **options: resnet50(**{"width": 2, "stem": "small", **options}),
    "resnet50-imagenet": lambda **options: resnet50(**{"width": 2, **options}),
    "tiny": lambda **options: tiny_resnet(**{"width": 4, "in_channels": 3, **options}),
}
each_network = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolution(kernel, inputs, outputs):
    """Weights of a convolution without bias and the scale and shift of the normalisation after it."""
    return kernel**2 * inputs * outputs + 2 * outputs


def basic_stage(inputs, width, depth):
    """Basic blocks; all shortcuts but the first are identities, and the first is too where nothing changes."""
    first = convolution(3, inputs, width) + convolution(3, width, width)
    shortcut = 0 if inputs == width else convolution(1, inputs, width)
    return first + shortcut + (depth - 1) * 2 * convolution(3, width, width)


def bottleneck_stage(inputs, width, depth):
    """Bottlenecks; the first always changes the number of channels."""
    inner = convolution(3, width, width) + convolution(1, width, 4 * width)
    first = convolution(1, inputs, width) + inner + convolution(1, inputs, 4 * width)
    return first + (depth - 1) * (convolution(1, 4 * width, width) + inner)


def count18(w, c, k, kernel):
    stages = [(w, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)]
    return convolution(kernel, c, w) + sum(basic_stage(i, o, 2) for i, o in stages) + 8 * w * k + k


def count50(w, c, k, kernel):
    stages = [(w, w, 3), (4 * w, 2 * w, 4), (8 * w, 4 * w, 6), (16 * w, 8 * w, 3)]
    return convolution(kernel, c, w) + sum(bottleneck_stage(i, o, d) for i, o, d in stages) + 32 * w * k + k


def count_tiny(w, c, k):
    stages = [(w, w), (w, 2 * w), (2 * w, 4 * w)]
    return convolution(3, c, w) + sum(basic_stage(i, o, 1) for i, o in stages) + 4 * w * k + k


def test_resnet18_has_the_published_number_of_parameters():
    assert num_parameters(resnet18()) == 11_173_962


def test_resnet50_has_torchvisions_number_of_parameters_with_either_stem():
    assert num_parameters(resnet50(stem="small")) == 23_520_842
    assert num_parameters(resnet50(1000)) == 25_557_032


def test_tiny_resnet_has_the_documented_number_of_parameters():
    assert num_parameters(tiny_resnet()) == 19_810


@pytest.mark.parametrize(("stem", "kernel"), [("small", 3), ("imagenet", 7)])
@pytest.mark.parametrize(("w", "c", "k"), [(1, 1, 1), (3, 1, 7), (8, 3, 10), (20, 4, 2)])
def test_parameters_are_counted_by_the_closed_forms(w, c, k, stem, kernel):
    model18 = resnet18(k, width=w, in_channels=c, stem=stem)
    model50 = resnet50(k, width=w, in_channels=c, stem=stem)
    assert num_parameters(model18) == count18(w, c, k, kernel)
    assert num_parameters(model50) == count50(w, c, k, kernel)
    assert num_parameters(tiny_resnet(k, width=w, in_channels=c)) == count_tiny(w, c, k)
    # The polynomials of the docstrings.
    assert count18(w, c, k, 3) == 2724 * w**2 + (150 + 9 * c + 8 * k) * w + k
    assert count50(w, c, k, kernel) == 5724 * w**2 + (830 + kernel**2 * c + 32 * k) * w + k
    assert count_tiny(w, c, k) == 298 * w**2 + (42 + 9 * c + 4 * k) * w + k


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_resnet18_state_is_named_and_shaped_as_torchvisions():
    found = shapes(resnet18())
    listed = {
        "conv1.weight": (64, 3, 3, 3),
        "bn1.weight": (64,),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.0.bn1.bias": (64,),
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer2.0.bn2.running_var": (128,),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.weight": (128,),
        "layer3.0.downsample.1.running_mean": (256,),
        "layer3.1.bn2.bias": (256,),
        "layer4.0.downsample.0.weight": (512, 256, 1, 1),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (10, 512),
        "fc.bias": (10,),
    }
    assert {name: found.get(name) for name in listed} == listed
    assert len(found) == 122
    assert "layer1.0.downsample.0.weight" not in found
    assert shapes(resnet18(stem="imagenet"))["conv1.weight"] == (64, 3, 7, 7)


def test_resnet50_state_is_named_and_shaped_as_torchvisions():
    found = shapes(resnet50())
    listed = {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.bn3.weight": (256,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.2.conv1.weight": (64, 256, 1, 1),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.running_var": (2048,),
        "fc.weight": (10, 2048),
    }
    assert {name: found.get(name) for name in listed} == listed
    assert len(found) == 320


def test_parameters_come_in_the_order_in_which_torchvision_lists_them():
    names = [name for name, _ in resnet18(width=2).named_parameters() if name.startswith("layer2.0.")]
    assert [name.removeprefix("layer2.0.") for name in names] == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "conv2.weight",
        "bn2.weight",
        "bn2.bias",
        "downsample.0.weight",
        "downsample.1.weight",
        "downsample.1.bias",
    ]


def test_the_stride_of_a_bottleneck_is_on_its_3_by_3_convolution():
    block = resnet50(width=2).layer2[0]
    assert [block.conv1.stride, block.conv2.stride, block.conv3.stride] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize(("stem", "side"), [("small", 32), ("imagenet", 8)])
def test_the_stem_keeps_the_image_size_or_quarters_it(stem, side):
    model = resnet18(width=2, stem=stem)
    seen = []
    model.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model(torch.zeros(2, 3, 32, 32))
    assert seen == [(2, 2, side, side)]


@pytest.mark.parametrize("side", [32, 33])
@each_network
def test_logits_have_a_row_an_image_and_a_column_a_class(make, side):
    assert make(num_classes=7)(torch.zeros(2, 3, side, side)).shape == (2, 7)


def naive_batch_norm(x, bn):
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def naive_convolution(x, weight, stride, padding):
    """One image `[channels, rows, columns]`, pixel by pixel."""
    channels, rows, columns = x.shape
    framed = torch.zeros(channels, rows + 2 * padding, columns + 2 * padding, dtype=x.dtype)
    framed[:, padding : padding + rows, padding : padding + columns] = x
    kernel = weight.shape[-1]
    spots = [range(0, size + 2 * padding - kernel + 1, stride) for size in (rows, columns)]
    return torch.stack(
        [
            torch.stack([(framed[:, r : r + kernel, c : c + kernel] * weight).sum((1, 2, 3)) for c in spots[1]], dim=1)
            for r in spots[0]
        ],
        dim=1,
    )


def naive_step(x, convolution, bn, stride):
    weight = convolution.weight
    return naive_batch_norm(naive_convolution(x, weight, stride, weight.shape[-1] // 2), bn)


def naive_basic_block(x, block, stride, *, projects):
    inner = naive_step(x, block.conv1, block.bn1, stride).clamp(min=0)
    inner = naive_step(inner, block.conv2, block.bn2, 1)
    return (inner + (naive_step(x, *block.downsample, stride) if projects else x)).clamp(min=0)


def naive_bottleneck(x, block, stride, *, projects):
    inner = naive_step(x, block.conv1, block.bn1, 1).clamp(min=0)
    inner = naive_step(inner, block.conv2, block.bn2, stride).clamp(min=0)
    inner = naive_step(inner, block.conv3, block.bn3, 1)
    return (inner + (naive_step(x, *block.downsample, stride) if projects else x)).clamp(min=0)


def trained_a_little(model, shape):
    """The model in float64 and eval mode, its normalisations moved off their start."""
    model = model.double()
    model(torch.randn(5, *shape, dtype=torch.float64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1, std=0.3)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def test_tiny_resnet_equals_a_network_written_out_by_hand():
    torch.manual_seed(0)
    model = trained_a_little(tiny_resnet(3, width=2), (1, 8, 8))
    image = torch.randn(1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        x = naive_step(image, model.conv1, model.bn1, 1).clamp(min=0)
        x = naive_basic_block(x, model.layer1[0], 1, projects=False)
        x = naive_basic_block(x, model.layer2[0], 2, projects=True)
        x = naive_basic_block(x, model.layer3[0], 2, projects=True)
        expected = model.fc.weight @ x.mean((1, 2)) + model.fc.bias
        found = model(image[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)  # the order of float64 sums


@pytest.mark.parametrize(("inputs", "stride", "projects"), [(4, 2, True), (4, 1, True), (8, 1, False)])
def test_a_bottleneck_equals_one_written_out_by_hand(inputs, stride, projects):
    torch.manual_seed(0)
    block = trained_a_little(Bottleneck(inputs, 2, stride), (inputs, 5, 5))
    image = torch.randn(inputs, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = naive_bottleneck(image, block, stride, projects=projects)
        found = block(image[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)  # the order of float64 sums


@each_network
def test_gradient_reaches_every_parameter(make):
    torch.manual_seed(0)
    model = make().double()
    logits = model(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


@each_network
def test_in_eval_mode_a_row_does_not_depend_on_the_others(make):
    torch.manual_seed(0)
    model = make().double().eval()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    others = images.clone()
    others[1:] = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(images)[0], model(others)[0])


@each_network
def test_equal_random_state_gives_equal_weights(make):
    torch.manual_seed(3)
    first = make().state_dict()
    torch.manual_seed(3)
    again = make().state_dict()
    other = make().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("reset", [False, True], ids=["built", "reset"])
def test_convolutions_start_kaiming_normal_by_fan_out(reset):
    torch.manual_seed(0)
    model = resnet18(width=32)
    if reset:
        for parameter in model.parameters():
            nn.init.constant_(parameter, torch.nan)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    for module in convolutions:
        weight = module.weight.detach()
        outputs, _, rows, columns = weight.shape
        # Of the standardised weights, mean and mean square lie within five standard errors, 1 and sqrt(2) over sqrt(n).
        standard = weight.flatten() / (2 / (outputs * rows * columns)) ** 0.5
        assert standard.mean().abs() < 5 / len(standard) ** 0.5
        assert (standard.square().mean() - 1).abs() < 5 * (2 / len(standard)) ** 0.5


@pytest.mark.parametrize("name", ["num_classes", "width", "in_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("make", [resnet18, resnet50, tiny_resnet])
def test_sizes_that_are_no_positive_integers_are_refused(make, name, value):
    with pytest.raises(errors.BadRequest, match=rf"{name}: expected an integer of at least 1, found {value!r}; give"):
        make(**{name: value})


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_an_unknown_stem_is_refused(make):
    with pytest.raises(
        errors.BadRequest, match="stem: expected one of small, imagenet, found 'cifar'; give one of these"
    ):
        make(stem="cifar")
