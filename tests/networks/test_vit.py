import math

import pytest
import torch
from torch import nn

from excise import errors
from excise.networks.vit import LocalitySelfAttention, Patches, locality_weights, vit_small, with_shifts

TINY = {"image_size": 8, "patch_size": 4, "width": 6, "depth": 2, "heads": 2, "head_width": 3, "mlp_width": 5}


def tiny_vit(**options):
    return vit_small(**{"num_classes": 4, **TINY, **options})


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def count(*, k, image, patch, w, depth, heads, d, mlp, c):
    """Parameters of the common public implementation, layer by layer."""
    values = 5 * c * patch**2  # a patch of the image and its four copies
    tokens = (image // patch) ** 2 + 1
    embedding = 2 * values + (values * w + w) + tokens * w + w  # norm, linear, positions, class token
    attention = 1 + 2 * w + w * 3 * heads * d + (heads * d * w + w)  # temperature, norm, qkv without bias, out
    perceptron = 2 * w + (w * mlp + mlp) + (mlp * w + w)  # norm, two linear layers
    return embedding + depth * (attention + perceptron) + 2 * w + (w * k + k)


def test_the_defaults_have_the_public_implementations_number_of_parameters():
    # By hand: 493,952 of patches, 9,216 of positions and class token, 4 x 2,626,049 of layers, 6,154 of the head.
    assert num_parameters(vit_small()) == 493_952 + 9_216 + 4 * 2_626_049 + 6_154 == 11_013_518
    sizes = {"k": 10, "image": 32, "patch": 8, "w": 512, "depth": 4, "heads": 8, "d": 64, "mlp": 1536, "c": 3}
    assert count(**sizes) == 11_013_518


@pytest.mark.parametrize(
    ("k", "image", "patch", "w", "depth", "heads", "d", "mlp", "c"),
    [(1, 1, 1, 1, 1, 1, 1, 1, 1), (4, 8, 4, 6, 2, 2, 3, 5, 3), (10, 12, 3, 16, 3, 4, 8, 24, 1)],
)
def test_parameters_are_counted_by_the_closed_form(k, image, patch, w, depth, heads, d, mlp, c):
    model = vit_small(
        k,
        image_size=image,
        patch_size=patch,
        width=w,
        depth=depth,
        heads=heads,
        head_width=d,
        mlp_width=mlp,
        in_channels=c,
    )
    assert num_parameters(model) == count(
        k=k, image=image, patch=patch, w=w, depth=depth, heads=heads, d=d, mlp=mlp, c=c
    )


def test_state_is_named_shaped_and_ordered_as_the_public_implementations():
    layer = {
        "0.temperature": (),
        "0.norm.weight": (6,),
        "0.norm.bias": (6,),
        "0.to_qkv.weight": (18, 6),
        "0.to_out.0.weight": (6, 6),
        "0.to_out.0.bias": (6,),
        "1.net.0.weight": (6,),
        "1.net.0.bias": (6,),
        "1.net.1.weight": (5, 6),
        "1.net.1.bias": (5,),
        "1.net.4.weight": (6, 5),
        "1.net.4.bias": (6,),
    }
    expected = {
        "pos_embedding": (1, 5, 6),
        "cls_token": (1, 1, 6),
        "to_patch_embedding.to_patch_tokens.1.weight": (240,),
        "to_patch_embedding.to_patch_tokens.1.bias": (240,),
        "to_patch_embedding.to_patch_tokens.2.weight": (6, 240),
        "to_patch_embedding.to_patch_tokens.2.bias": (6,),
        **{f"transformer.layers.{depth}.{name}": shape for depth in range(2) for name, shape in layer.items()},
        "mlp_head.0.weight": (6,),
        "mlp_head.0.bias": (6,),
        "mlp_head.1.weight": (4, 6),
        "mlp_head.1.bias": (4,),
    }
    found = [(name, tuple(value.shape)) for name, value in tiny_vit().state_dict().items()]
    assert found == list(expected.items())


def test_shifted_copies_are_stacked_pixel_by_pixel():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.zeros(2, 15, 4, 5, dtype=torch.float64)
    # A copy moved right shows at (row, column) what stood at (row, column - 1), and so on; nothing stood outside.
    sources = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]
    for image in range(2):
        for copy, (down, right) in enumerate(sources):
            for channel in range(3):
                for row in range(4):
                    for column in range(5):
                        if 0 <= row + down < 4 and 0 <= column + right < 5:
                            value = images[image, channel, row + down, column + right]
                            expected[image, 3 * copy + channel, row, column] = value
    assert torch.equal(with_shifts(images), expected)


def test_patches_are_cut_pixel_by_pixel():
    images = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    patches = Patches(2)(images)
    assert patches.shape == (2, 9, 12)
    for image in range(2):
        for row in range(6):
            for column in range(6):
                for channel in range(3):
                    patch = (row // 2) * 3 + column // 2
                    value = ((row % 2) * 2 + column % 2) * 3 + channel
                    assert patches[image, patch, value] == images[image, channel, row, column]


def test_no_token_attends_to_itself_and_weights_sum_to_one():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).unbind(0)
    weights = locality_weights(query, key, torch.tensor(0.7, dtype=torch.float64))
    assert weights.shape == (3, 4, 5, 5)
    assert torch.equal(weights.diagonal(dim1=-2, dim2=-1), torch.zeros(3, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 5, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (weights + torch.eye(5) > 0).all()


def naive_attention(module, tokens):
    """Locality self-attention of one image, a list of tokens, number by number."""
    heads, width = module.heads, module.head_width
    inner = heads * width
    normed = []
    for token in tokens:
        mean = sum(token) / len(token)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in token) / len(token) + 1e-5)
        scale, shift = module.norm.weight.tolist(), module.norm.bias.tolist()
        normed.append([(value - mean) / deviation * a + b for value, a, b in zip(token, scale, shift, strict=True)])
    rows = module.to_qkv.weight.tolist()
    parts = [[sum(w * x for w, x in zip(row, token, strict=True)) for row in rows] for token in normed]
    scale = math.exp(module.temperature.item())
    gathered = [[0.0] * inner for _ in tokens]
    for head in range(heads):
        for i in range(len(tokens)):
            others = [j for j in range(len(tokens)) if j != i]
            strength = {}
            for j in others:
                at = range(head * width, head * width + width)
                strength[j] = math.exp(scale * sum(parts[i][d] * parts[j][inner + d] for d in at))
            for j in others:
                for d in range(head * width, head * width + width):
                    gathered[i][d] += strength[j] / sum(strength.values()) * parts[j][2 * inner + d]
    weight, bias = module.to_out[0].weight.tolist(), module.to_out[0].bias.tolist()
    return [
        [sum(w * x for w, x in zip(row, token, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for token in gathered
    ]


def test_attention_equals_explicit_loops():
    torch.manual_seed(0)
    module = LocalitySelfAttention(width=4, heads=2, head_width=3, dropout=0.0).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = torch.tensor([naive_attention(module, image) for image in tokens.tolist()], dtype=torch.float64)
    torch.testing.assert_close(module(tokens).detach(), expected, rtol=1e-10, atol=1e-10)  # the order of float64 sums


def test_the_learned_scale_starts_at_the_usual_one_and_is_one_number_a_layer():
    temperatures = [value for name, value in tiny_vit().named_parameters() if name.endswith("temperature")]
    assert [value.shape for value in temperatures] == [(), ()]
    for value in temperatures:
        torch.testing.assert_close(value.exp().detach(), torch.tensor(3**-0.5))


def test_the_head_reads_the_class_token_and_its_position_where_layers_add_nothing():
    torch.manual_seed(0)
    model = tiny_vit().double()
    for name, parameter in model.transformer.named_parameters():
        if "to_out" in name or "net.4" in name:
            nn.init.zeros_(parameter)
    expected = model.mlp_head(model.cls_token[0, 0] + model.pos_embedding[0, 0])
    found = model(torch.randn(3, 3, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(found, expected.expand(3, 4), rtol=1e-12, atol=1e-12)  # the order of float64 sums


def test_logits_have_a_row_an_image_and_a_column_a_class():
    assert vit_small(7, depth=1)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert tiny_vit(in_channels=1)(torch.zeros(3, 1, 8, 8)).shape == (3, 4)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = tiny_vit().double()
    logits = model(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    model = tiny_vit().double().eval()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    others = images.clone()
    others[1:] = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(model(images)[0], model(others)[0])


def test_dropout_is_off_by_default_and_acts_in_training_mode_only():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    plain, dropping = tiny_vit(), tiny_vit(dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(plain(images), plain.eval()(images))
    assert not torch.equal(dropping(images), plain(images))
    assert torch.equal(dropping.eval()(images), plain(images))


def test_equal_random_state_gives_equal_weights():
    torch.manual_seed(3)
    first = tiny_vit().state_dict()
    torch.manual_seed(3)
    again = tiny_vit().state_dict()
    other = tiny_vit().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pos_embedding"], other["pos_embedding"])


@pytest.mark.parametrize("name", ["num_classes", *TINY, "in_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_sizes_that_are_no_positive_integers_are_refused(name, value):
    with pytest.raises(errors.BadRequest, match=rf"{name}: expected an integer of at least 1, found {value!r}; give"):
        tiny_vit(**{name: value})


def test_patches_that_do_not_tile_the_image_are_refused():
    message = "patch_size: expected a divisor of the image size 32, found 5; give a patch size that divides it"
    with pytest.raises(errors.BadRequest, match=message):
        vit_small(patch_size=5)


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, math.nan, "0"])
def test_a_dropout_that_is_no_fraction_is_refused(value):
    message = f"dropout: expected a fraction of at least 0 and below 1, found {value!r}; 0 is none"
    with pytest.raises(errors.BadRequest, match=message):
        tiny_vit(dropout=value)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    message = rf"images: expected shape \[batch, 3, 8, 8\], found \[{', '.join(map(str, shape))}\]; resize them"
    with pytest.raises(errors.BadRequest, match=message):
        tiny_vit()(torch.zeros(shape))
