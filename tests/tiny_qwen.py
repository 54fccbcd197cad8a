"""A small random Qwen2.5-VL with real processor, tokenizer and model classes, built offline.

The folder it writes has the files of the hub's, so that the worker loads it like a real one. Its
weights are six times as large as freshly initialised ones: those (0.02) leave the logits almost
blind to the image, and tests that compare them could not fail.

torchvision is not needed: `OfficialProcessor` is the real Qwen2_5_VLProcessor without its video
half, which transformers cannot import otherwise.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from PIL import Image
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from earlyfire_stream.contract import prompt
from earlyfire_stream.verdict import CoordSpace

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
"""In the order of Qwen2.5, where they begin at 151643; here after the small vocabulary."""

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's own, word for word."""

PROMPT = prompt("v1", CoordSpace.RESIZED_ABS)
SYSTEM = "You are a wildfire early detection assistant. Answer only in JSON."
QUESTION = "Is there smoke or fire in the image?"
CORPUS = [
    PROMPT.system,
    PROMPT.user_template,
    SYSTEM,
    QUESTION,
    "You are a helpful assistant.",
    "system\n",
    "user\n",
    "assistant\n",
    "true|false",
    '{"has_smoke": true, "bbox_2d": [123, 456, 789, 987]}',
    '{"has_smoke": false, "bbox_2d": null}',
    '{"has_smoke":true,"bbox_2d":null}',
    '{"has_smoke": false, "has_fire": true, "score": 0.12, "reason": "clear sky, low cloud, fog"}',
] * 50

SMALL: dict[str, int] = {
    "hidden": 512,
    "layers": 10,
    "heads": 4,
    "kv": 2,
    "inter": 1792,
    "v_hidden": 160,
    "v_heads": 2,
    "v_depth": 6,
    "v_inter": 480,
}
"""39 million parameters: small, and yet bound by arithmetic rather than by Python. Heads are as
wide as the real ones (128, and 80 in the vision tower), and the vision tower takes about a third
of a pass over 1280 x 720, as in the real 7B."""


def build_tokenizer(vocab_size: int = 1000) -> Qwen2Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=131072,
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    tokenizer.add_tokens(
        [AddedToken(s, special=True, normalized=False) for s in SPECIALS], special_tokens=True
    )
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


class OfficialProcessor(Qwen2_5_VLProcessor):
    """Qwen2_5_VLProcessor for images alone. ProcessorMixin reads the signature of __init__, so
    leaving video_processor out of it is enough."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def build_processor(
    tokenizer: Qwen2Tokenizer, max_tokens: int = 16384, min_tokens: int = 4
) -> OfficialProcessor:
    pictures = Qwen2VLImageProcessorPil(min_pixels=min_tokens * 784, max_pixels=max_tokens * 784)
    return OfficialProcessor(
        image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE
    )


def build_model(
    tokenizer: Qwen2Tokenizer,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv: int = 2,
    inter: int = 128,
    v_hidden: int = 32,
    v_heads: int = 2,
    v_depth: int = 3,
    v_inter: int = 64,
    seed: int = 0,
    gain: float = 6.0,
    tokens_per_second: int = 2,
) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    half = hidden // heads // 2  # mrope_section must sum to half a head
    t = half // 4
    h = (half - t) // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": hidden,
            "intermediate_size": inter,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [t, h, half - t - h],
            },
        },
        vision_config={
            "depth": v_depth,
            "hidden_size": v_hidden,
            "num_heads": v_heads,
            "intermediate_size": v_inter,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [v_depth - 1],
            "window_size": 112,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": tokens_per_second,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(gain)
    model.generation_config = GenerationConfig(
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")],
        pad_token_id=token("<|endoftext|>"),
        do_sample=False,
    )
    return model


def save_like_the_hub(model: Any, processor: OfficialProcessor, folder: Path) -> None:
    """The files of Qwen/Qwen2.5-VL-*: preprocessor_config.json and chat_template.json, not the
    newer single processor_config.json, which would name the class above."""
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    pictures = processor.image_processor
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen2_5_VLProcessor",
                "min_pixels": pictures.size["shortest_edge"],
                "max_pixels": pictures.size["longest_edge"],
                "patch_size": pictures.patch_size,
                "temporal_patch_size": pictures.temporal_patch_size,
                "merge_size": pictures.merge_size,
                "image_mean": list(pictures.image_mean),
                "image_std": list(pictures.image_std),
            }
        )
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))


def save_tiny(folder: Path, **shape: Any) -> Path:
    """Build it and write it into `folder`; 0.3 s and 1 MB for the default shape."""
    tokenizer = build_tokenizer()
    save_like_the_hub(build_model(tokenizer, **shape), build_processor(tokenizer), folder)
    return folder


def fake_pixels(width: int = 1288, height: int = 728, seed: int = 0) -> np.ndarray:
    """Height x width x 3, BGR: waves over a gradient, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [255 * (1 - y / height), 255 * y / height, 128 + 100 * np.sin(x / (30 + 20 * seed))], -1
    )
    noisy = picture + rng.normal(0, 12, picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def as_image(pixels: np.ndarray) -> Image.Image:
    """For the official processor, which wants RGB."""
    return Image.fromarray(pixels[..., ::-1])


def messages(
    system: str = SYSTEM, question: str = QUESTION, images: int = 1
) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {
            "role": "user",
            "content": [{"type": "image"}] * images + [{"type": "text", "text": question}],
        },
    ]
