import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hybrid import SMALL_BACKBONE
from transformers import BitConfig

from vit_hybrid import ViTHybridConfig
from vit_hybrid.model.backbone import BitBackbone
from vit_hybrid.model.geometry import feature_map_size, round_width


@settings(max_examples=40)
@given(
    padding=st.sampled_from([None, "SAME"]),
    dynamic=st.booleans(),
    layer_type=st.sampled_from(["bottleneck", "preactivation"]),
    output_stride=st.sampled_from([4, 8, 32]),
    stage=st.sampled_from(["stem", "stage1", "stage2", "stage3"]),
    size=st.tuples(st.integers(17, 70), st.integers(17, 70)),
)
def test_feature_map_shape_is_the_one_the_backbone_gives(padding, dynamic, layer_type, output_stride, stage, size):
    backbone = BitConfig(
        **SMALL_BACKBONE,
        global_padding=padding,
        embedding_dynamic_padding=dynamic,
        layer_type=layer_type,
        output_stride=output_stride,
        out_features=[stage],
    )
    config = ViTHybridConfig(backbone_config=backbone, image_size=list(size))
    with torch.no_grad():
        feature_map = BitBackbone(backbone)(torch.zeros(1, 3, *size)).feature_maps[-1]
    assert config.backbone_featmap_shape == list(feature_map.shape)


def test_feature_map_size_takes_one_side_or_two():
    backbone = ViTHybridConfig().backbone_config
    assert feature_map_size(backbone, 384) == (24, 24)
    assert feature_map_size(backbone, (225, 16)) == (15, 1)


def test_widths_are_the_nearest_multiple_of_eight_that_loses_no_more_than_a_tenth():
    widths = {3: 8, 8: 8, 8.5: 8, 10: 16, 11.9: 16, 12: 16, 60: 64, 67: 64, 68: 72, 100: 104, 99.9: 96}
    assert {value: round_width(value) for value in widths} == widths
