"""The U-Net: the CSBDeep twin's parameter count, its taps, its options, its weights on disk."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import segcam_jax as segcam
from segcam_jax import InputError, cli, models
from segcam_jax.cli import cache
from segcam_jax.models.unet import UNet, UNetConfig, load_unet, save_unet

SMALL = UNetConfig(depth=2, width=2, classes=3)


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def size(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def test_the_csbdeep_twin_of_seg_grad_cam():
    model = nnx.eval_shape(lambda: UNet(rngs=nnx.Rngs(0)))
    trainable = size(nnx.state(model, nnx.Param))
    assert trainable == 5_500_779
    assert trainable + size(nnx.state(model, nnx.BatchStat)) == 5_505_707


def test_taps_of_the_twin():
    fn, params = segcam.from_nnx(nnx.eval_shape(lambda: UNet(rngs=nnx.Rngs(0))))
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((64, 64, 1), jnp.float32))
    channels = {name: struct.shape[-1] for name, struct in taps.items()}
    blocks = [f"{kind}{level}" for level in range(1, 5) for kind in ("encoder",)]
    blocks += ["bottleneck", *(f"decoder{level}" for level in (4, 3, 2, 1))]
    assert list(taps) == [
        "input",
        *(
            name
            for block in blocks
            for name in (f"{block}/norm1", f"{block}/conv1", f"{block}/norm2", block)
        ),
        "logits",
    ]
    assert [channels[block] for block in blocks] == [32, 64, 128, 256, 256, 128, 64, 32, 32]
    assert channels["bottleneck/conv1"] == 512
    assert segcam.bottleneck(taps) == "bottleneck"
    assert taps["bottleneck"].shape == (4, 4, 256)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("upsample", ["nearest", "linear", "transposed"])
@pytest.mark.parametrize("skips", [True, False])
def test_options_split_exactly(ndim, upsample, skips):
    config = UNetConfig(
        ndim=ndim, depth=1, width=2, classes=3, dropout=0.5, upsample=upsample, skips=skips
    )
    fn, params = segcam.from_nnx(UNet(config, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 4, 6)[3 - ndim :] + (1,))
    split = segcam.split(fn, "bottleneck", params, x)
    np.testing.assert_array_equal(split.decode(*split.encode(params, x)), fn(params, x))
    assert fn(params, x).shape == (*x.shape[:-1], 3)


def test_a_network_with_dropout_is_read_as_it_was_saved(tmp_path):
    model = UNet(UNetConfig(depth=1, width=2, classes=3, dropout=0.5), rngs=nnx.Rngs(0))
    save_unet(tmp_path / "net.safetensors", model, {})
    x = jax.random.normal(jax.random.key(0), (4, 6, 1))
    loaded = models.load(tmp_path / "net.safetensors")
    fn, params = segcam.from_nnx(model)
    np.testing.assert_array_equal(loaded.fn(loaded.params, x), fn(params, x))


def test_the_classic_u_net():
    """Ronneberger et al., 2015, with padding and BatchNorm: counted by hand, layer by layer."""
    config = UNetConfig(in_channels=3, classes=2, width=64, upsample="transposed", halve="upsample")
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    levels = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    convolutions = [pair for i, o in levels for pair in ((i, o), (o, o))]
    convolutions += [pair for _, o in levels[:-1] for pair in ((2 * o, o), (o, o))]
    expected = sum(9 * i * o + o + 2 * o for i, o in convolutions)
    expected += sum(4 * (2 * o) * o + o for _, o in levels[:-1]) + 64 * 2 + 2
    assert size(nnx.state(model, nnx.Param)) == expected

    fn, params = segcam.from_nnx(model)
    taps = segcam.list_taps(fn, params, jax.ShapeDtypeStruct((64, 32, 3), jnp.float32))
    assert taps["bottleneck"].shape == (4, 2, 1024)
    assert [taps[f"decoder{level}"].shape for level in (4, 3, 2, 1)] == [
        (8, 4, 512),
        (16, 8, 256),
        (32, 16, 128),
        (64, 32, 64),
    ]


def test_a_batch_and_a_single_image_agree():
    model = nnx.view(UNet(SMALL, rngs=nnx.Rngs(0)), use_running_average=True)
    x = jax.random.normal(jax.random.key(0), (3, 8, 12, 1))
    np.testing.assert_allclose(model(x)[1], model(x[1]), atol=1e-5)


def test_inputs_that_do_not_fit():
    model = UNet(SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"extents \(8, 10\); pad them to multiples of 4"):
        model(jnp.zeros((8, 10, 1)))
    with pytest.raises(InputError, match=r"shape \(8, 8, 3\); it expects 2 spatial .* 1 channel"):
        model(jnp.zeros((8, 8, 3)))
    wrong = {"ndim": 4, "upsample": "cubic", "halve": "all", "depth": 0, "dropout": -1.0}
    for field, value in wrong.items():
        with pytest.raises(InputError, match=field):
            UNetConfig(**{field: value})
    with pytest.raises(InputError, match="choose upsample='transposed'"):
        UNetConfig(halve="upsample")


def test_weights_on_disk(tmp_path):
    path = tmp_path / "weights" / "unet.safetensors"
    model = UNet(SMALL, rngs=nnx.Rngs(3))
    save_unet(path, model, {"classes": ["a", "b", "c"]})
    loaded = models.load(path)
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.config == SMALL
    fn, params = segcam.from_nnx(model)
    x = jax.random.normal(jax.random.key(0), (8, 8, 1))
    np.testing.assert_array_equal(loaded.fn(loaded.params, x), fn(params, x))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_weights_that_do_not_fit_list_every_mismatch(tmp_path):
    from segcam_jax.weights import store

    path = tmp_path / "unet.safetensors"
    save_unet(path, UNet(SMALL, rngs=nnx.Rngs(0)))
    tensors, metadata = store.load(path)
    tensors["head/kernel"] = tensors["head/kernel"][..., :2]
    tensors["surplus"] = tensors.pop("head/bias")
    store.save(path, tensors, metadata)
    with pytest.raises(InputError, match="3 mismatch") as caught:
        load_unet(path)
    for part in ("head/bias is missing", "surplus is not", "head/kernel has shape (1, 1, 2, 2)"):
        assert part in str(caught.value)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    from segcam_jax.weights import store

    tensors = {"b": np.arange(5.0), "a": np.ones((2, 3), np.float32), "number": np.float32(2)}
    about = {name: {"é": name} for name in "abcdefghij"}
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path, metadata in zip(paths, (about, dict(reversed(about.items()))), strict=True):
        store.save(path, tensors, metadata)
        found, told = store.load(path)
        assert told == about
        assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    store.save(paths[0], tensors, {})
    assert store.load(paths[0])[1] == {}


def test_weights_files_that_are_none(tmp_path):
    path = tmp_path / "unet.safetensors"
    save_unet(path, UNet(SMALL, rngs=nnx.Rngs(0)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        models.load(path)
    with pytest.raises(InputError, match="bundled are texture-mnist-biased"):
        models.load("texture-mnist-bias")
    with pytest.raises(InputError, match="unknown model 'unett'; choose from unet"):
        models.load(path, model="unett")


def source_unet(depth, inner):
    """Weights and forward pass of the PyTorch U-Net of the Eurocon 2023 code, in its layout.

    Images are `c h w`; convolutions `out in h w`, transposed ones `in out h w`.
    """
    rng, state = np.random.default_rng(0), {}
    widths = [4 * 2**level for level in range(depth + 1)]
    deepest = "bottleneck" if inner else f"encoder{depth + 1}"
    names = [*(f"encoder{n + 1}" for n in range(depth)), deepest]

    def add(name, *shape, low=-0.3, high=0.3):
        state[name] = rng.uniform(low, high, shape).astype(np.float32)

    def add_block(name, inputs, width):
        for n, given in ((1, inputs), (2, width)):
            add(f"{name}conv{n}.weight", width, given, 3, 3)
            add(f"{name}norm{n}.bias", width)
            add(f"{name}norm{n}.running_mean", width)
            for part in ("weight", "running_var"):
                add(f"{name}norm{n}.{part}", width, low=0.5, high=1.5)
            state[f"{name}norm{n}.num_batches_tracked"] = np.array(3)

    def inside(name):
        return name if name == "bottleneck" else f"enc{name[-1]}"

    for n, (name, width) in enumerate(zip(names, widths, strict=True)):
        add_block(f"{name}.{inside(name)}", widths[n - 1] if n else 3, width)
    for n in range(depth, 0, -1):
        add(f"upconv{n}.weight", widths[n], widths[n - 1], 2, 2)
        add(f"upconv{n}.bias", widths[n - 1])
        add_block(f"decoder{n}.dec{n}", 2 * widths[n - 1], widths[n - 1])
    add("conv.weight", 2, 4, 1, 1)
    add("conv.bias", 2)

    def block(x, name):
        for n in (1, 2):
            x = jax.lax.conv(x[None], state[f"{name}conv{n}.weight"], (1, 1), "SAME")[0]
            norm = {
                part: state[f"{name}norm{n}.{part}"][:, None, None]
                for part in ("weight", "bias", "running_mean", "running_var")
            }
            x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
            x = jax.nn.relu(x * norm["weight"] + norm["bias"])
        return x

    def forward(x):
        skips = []
        for name in names[:-1]:
            skips.append(x := block(x, f"{name}.{inside(name)}"))
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
        x = block(x, f"{deepest}.{inside(deepest)}")
        for n in range(depth, 0, -1):
            up = np.einsum("chw,coab->ohawb", x, state[f"upconv{n}.weight"])
            up = up.reshape(len(up), 2 * x.shape[1], 2 * x.shape[2])
            up = up + state[f"upconv{n}.bias"][:, None, None]
            x = block(np.concatenate([up, skips[n - 1]]), f"decoder{n}.dec{n}")
        kernel = state["conv.weight"][:, :, 0, 0]
        return np.einsum("chw,oc->ohw", x, kernel) + state["conv.bias"][:, None, None]

    return state, forward


@pytest.mark.parametrize(("depth", "inner"), [(2, False), (1, True)])
def test_weights_of_the_pytorch_source_give_its_logits(tmp_path, depth, inner, capsys, monkeypatch):
    monkeypatch.setattr(cache, "enable", lambda: None)
    state, forward = source_unet(depth, inner)
    safetensors.numpy.save_file(state, tmp_path / "peaches.safetensors", {"format": "pt"})
    image = np.random.default_rng(1).random((8, 12, 3), np.float32)
    expected = forward(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    for bgr in (False, True):
        out = tmp_path / f"{bgr}.safetensors"
        names = ["background", "cut"]
        models.convert(tmp_path / "peaches.safetensors", "unet", out, bgr=bgr, labels=names)
        loaded = models.load(out)
        assert (loaded.config.depth, loaded.config.width, loaded.config.classes) == (depth, 4, 2)
        found = loaded.fn(loaded.params, image[..., ::-1] if bgr else image)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    line = ["convert", f"{tmp_path / 'peaches.safetensors'}", "--model", "unet"]
    assert cli.main([*line, "--out", f"{tmp_path / 'told.safetensors'}"]) == 0
    told = capsys.readouterr().out
    assert "concatenated before the skip" in told
    assert ("does not publish" in told) == (not inner)
    state["decoder1.other.weight"] = state.pop("decoder1.dec1conv2.weight")
    safetensors.numpy.save_file(state, tmp_path / "other.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 unknown to the table: decoder1\.other\.weight"):
        models.convert(tmp_path / "other.safetensors", "unet", tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def test_weights_of_csbdeep_give_their_logits(tmp_path):
    """A Keras model of CSBDeep's layers and names, saved as Keras 2 did."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    h5py = pytest.importorskip("h5py")
    layers, depth, width = keras.layers, 2, 2

    def block(x, channels, name):
        x = layers.Conv2D(channels, 3, padding="same", name=name)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        x = image = keras.Input((8, 12, 1))
        skips = []
        for level in range(depth):
            for n in (0, 1):
                x = block(x, width * 2**level, f"down_level_{level}_no_{n}")
            skips.append(x)
            x = layers.MaxPooling2D()(x)
        x = block(x, width * 2**depth, "middle_0")
        x = block(x, width * 2 ** (depth - 1), "middle_2")
        for level in reversed(range(depth)):
            x = layers.Concatenate()([layers.UpSampling2D()(x), skips[level]])
            x = block(x, width * 2**level, f"up_level_{level}_no_0")
            x = block(x, width * 2 ** max(0, level - 1), f"up_level_{level}_no_2")
        model = keras.Model(image, layers.Conv2D(3, 1)(x))
        rng = np.random.default_rng(0)
        weights = [layer for layer in model.layers if layer.weights]
        for layer in weights:
            for weight in layer.weights:
                weight.assign(rng.uniform(0.3, 1, weight.shape).astype(np.float32))
        given = rng.random((8, 12, 1), np.float32)
        expected = np.asarray(model(given[None]))[0]
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name for layer in weights]
        for layer in weights:
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = names
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = np.asarray(weight.value)
    model = models.convert(tmp_path / "weights.h5", "unet", tmp_path / "net.safetensors")
    assert model.config == UNetConfig(in_channels=1, classes=3, depth=depth, width=width)
    loaded = models.load(tmp_path / "net.safetensors")
    np.testing.assert_allclose(loaded.fn(loaded.params, given), expected, rtol=1e-4)
