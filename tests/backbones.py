"""Small backbones of KerasHub and keras.applications, on images of 32 x 32, made of a configuration."""

import keras
import keras_hub

MODELS = keras_hub.models
SHAPE = (32, 32, 3)


def vit(shape=SHAPE, **arguments):
    """Return a vision transformer: a token of the class, and 16 patches."""
    return MODELS.ViTBackbone(
        image_shape=shape, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, **arguments
    )


def dinov2(registers=4):
    """Return one with registers, and outputs of each block."""
    return MODELS.DINOV2Backbone(
        patch_size=8, num_layers=2, hidden_dim=8, num_heads=2, intermediate_dim=16, num_register_tokens=registers,
        image_shape=SHAPE, position_embedding_shape=SHAPE,
    )  # fmt: skip


def deit():
    """Return one with tokens of the class and of the distillation."""
    return MODELS.DeiTBackbone(
        image_shape=SHAPE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16
    )


def swin():
    """Return one of tokens without any beside the patches, fewer in the second stage."""
    return MODELS.SwinTransformerBackbone(
        image_shape=SHAPE, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
    )


def mit():
    """Return one whose stages end in maps."""
    return MODELS.MiTBackbone(
        layerwise_depths=[1, 1], image_shape=SHAPE, hidden_dims=[8, 16], layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2],
        num_layers=2,
    )  # fmt: skip


def resnet():
    """Return a residual network of two stages."""
    return MODELS.ResNetBackbone([64], [3], [64, 16], [1, 1], [1, 2], block_type="basic_block", image_shape=SHAPE)


def densenet():
    """Return a densely connected one."""
    return MODELS.DenseNetBackbone([1, 1], image_shape=SHAPE, growth_rate=4)


def vgg():
    """Return one of plain convolutions."""
    return MODELS.VGGBackbone(stackwise_num_repeats=[1, 1], stackwise_num_filters=[4, 8], image_shape=SHAPE)


def mobilenet():
    """Return one of inverted residuals, of keras.applications."""
    return keras.applications.MobileNetV3Small(SHAPE, include_top=False, weights=None, minimalistic=True, alpha=0.35)


def classifier(backbone, width=3):
    """Return a model in which a backbone is nested: of its tokens the first, or the mean of its map."""
    inputs = keras.Input(SHAPE)
    x = backbone({"images": inputs} if isinstance(backbone.input, dict) else inputs)
    x = x[:, 0] if len(x.shape) == 3 else keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(width)(x), name=f"{backbone.name}_classifier")


#: What builds each of them, by name.
ALL = {
    "vit": vit,
    "dinov2": dinov2,
    "deit": deit,
    "swin": swin,
    "mit": mit,
    "resnet": resnet,
    "densenet": densenet,
    "vgg": vgg,
    "mobilenet": mobilenet,
}
