"""The same numbers with less waste. Attention is registered with transformers by name.

Vision: Qwen2.5-VL looks at an image through windows of 8 x 8 patches, and transformers calls the
attention once a window and layer (84 times a layer for 1280 x 720) where no flash attention is
installed. Here windows of one size go together in one call. The name contains `flash` because
transformers hands the boundaries of the windows over, instead of cutting, to such names only.

Language: the prompt's rest meets a cached prefix, so there are more keys than queries, and for that
torch's fast causal kernels have no alignment that fits: transformers makes a full mask, and with a
mask every query meets every key although half of them are masked. Here queries that nobody asks
stand in for the prefix, and the causal kernel is used. Where rows are padded a mask it must be;
then, on a CPU, the queries are taken in blocks, each with the keys it can see.

Patches: their embedding is a convolution whose kernel is as large as its input: a matrix product,
which convolution kernels do in twice the time (on a CPU; in bfloat16 on CUDA some are far worse).

Last layer: of a prompt only the last token's output is of use there, so the others leave nothing
but their keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

__all__ = ["LANGUAGE", "VISION", "use"]

VISION = "earlyfire_flash_windows"
LANGUAGE = "earlyfire_causal"

BLOCK = 192
"""Queries at a time: few enough to leave out most of what is masked, many enough for the CPU."""


FEW = 16
"""Queries while an answer is written: one, and what it forced."""


class _Windows:
    """Which rows of a packed sequence belong to windows of one size; remembered, because all
    layers of a pass share two sets of boundaries. One thread."""

    def __init__(self) -> None:
        self._known: list[tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]] = []

    def __call__(self, boundaries: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """[(window size, rows of all windows of that size)]."""
        for known, groups in self._known:
            if known is boundaries:
                return groups
        edges = boundaries.cpu()
        starts, sizes = edges[:-1].long(), (edges[1:] - edges[:-1]).long()
        groups = []
        for size in sorted(set(sizes.tolist())):
            rows = starts[sizes == size][:, None] + torch.arange(size)
            groups.append((size, rows.reshape(-1).to(boundaries.device)))
        self._known = [*self._known[-1:], (boundaries, groups)]
        return groups


_windows = _Windows()


def windows_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """1 x heads x rows x width each -> 1 x rows x heads x width; rows attend within windows."""
    if len(cu_seq_lens_q) == 2:
        return attend(query, key, value, scale=scaling).transpose(1, 2), None
    _, heads, rows, width = query.shape
    whole = query.new_empty((rows, heads, width))
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    for size, members in _windows(cu_seq_lens_q):
        parts = [
            t.index_select(0, members).view(-1, size, heads, width).transpose(1, 2)
            for t in (q, k, v)
        ]
        out = attend(parts[0], parts[1], parts[2], scale=scaling)
        whole.index_copy_(0, members, out.transpose(1, 2).reshape(-1, heads, width))
    return whole[None], None


def causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Batch x heads x queries x width -> batch x queries x heads x width; the last query sees
    every key. `attention_mask` as `causal_mask` makes it, None where nothing is padded."""
    groups = module.num_key_value_groups
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    if queries <= FEW:
        # all heads of a group ask as if they were further queries: no copy of keys and values
        if attention_mask is None and queries > 1:
            all_pairs = torch.ones((queries, keys), dtype=torch.bool, device=query.device)
            attention_mask = all_pairs.tril(keys - queries)[None, None]
        if attention_mask is not None and queries > 1:
            attention_mask = attention_mask.repeat(1, 1, groups, 1)
        packed = query.reshape(batch, heads // groups, groups * queries, width)
        out = attend(packed, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(batch, heads, queries, width).transpose(1, 2), None
    if attention_mask is None and query.is_cuda:
        query = _led_by_nobody(query, keys)
        out = attend(query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1)
        return out[:, :, keys - queries :].transpose(1, 2), None
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    if attention_mask is None:
        out = attend(_led_by_nobody(query, keys), key, value, is_causal=True, scale=scaling)
        return out[:, :, keys - queries :].transpose(1, 2), None
    block = queries if query.is_cuda else BLOCK
    blocks = []
    for start in range(0, queries, block):
        end = min(start + block, queries)
        seen = keys - queries + end
        blocks.append(
            attend(
                query[:, :, start:end],
                key[:, :, :seen],
                value[:, :, :seen],
                attn_mask=attention_mask[:, :, start:end, :seen],
                scale=scaling,
            )
        )
    return torch.cat(blocks, dim=2).transpose(1, 2), None


def _led_by_nobody(query: torch.Tensor, keys: int) -> torch.Tensor:
    """As many queries as keys, the given ones last."""
    return torch.nn.functional.pad(query, (0, 0, keys - query.shape[2], 0))


def causal_mask(
    *, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor | None:
    """None where every row is whole, else sdpa's mask."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return sdpa_mask(attention_mask=attention_mask, **kwargs)


AttentionInterface.register(VISION, windows_attention)
AttentionInterface.register(LANGUAGE, causal_attention)
AttentionMaskInterface.register(LANGUAGE, causal_mask)


class _PatchProduct(torch.nn.Module):
    """Takes the place of a Conv3d that sees each input once."""

    def __init__(self, convolution: torch.nn.Conv3d) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.bias = convolution.bias

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


class _LastToken(torch.nn.Module):
    """Takes the place of the last decoder layer: what it gives is one token long."""

    def __init__(self, layer: Any, rotated: Any) -> None:
        super().__init__()
        self.layer = layer
        self._rotated = rotated

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> Any:
        assert position_embeddings is not None
        cos, sin = position_embeddings
        if hidden_states.shape[1] > 1:
            attention = self.layer.self_attn
            normed = self.layer.input_layernorm(hidden_states[:, :-1])
            shape = (*normed.shape[:2], -1, attention.head_dim)
            keys = attention.k_proj(normed).view(shape).transpose(1, 2)
            values = attention.v_proj(normed).view(shape).transpose(1, 2)
            keys, _ = self._rotated(keys, keys, cos[:, :-1], sin[:, :-1])
            past_key_values.update(keys, values, attention.layer_idx)
            if attention_mask is not None:
                attention_mask = attention_mask[:, :, -1:]
        return self.layer(
            hidden_states[:, -1:],
            attention_mask=attention_mask,
            position_embeddings=(cos[:, -1:], sin[:, -1:]),
            position_ids=None if position_ids is None else position_ids[:, -1:],
            past_key_values=past_key_values,
            **others,
        )


def use(model: Any) -> None:
    """Take these for a model that was loaded with sdpa. From then on it needs a cache, and gives
    the last token's logits alone."""
    embed = model.model.visual.patch_embed
    if isinstance(embed.proj, torch.nn.Conv3d) and embed.proj.stride == embed.proj.kernel_size:
        embed.proj = _PatchProduct(embed.proj)
    chosen = {"text_config": LANGUAGE}
    if hasattr(model.config.vision_config, "fullatt_block_indexes"):
        chosen["vision_config"] = VISION
    model.set_attn_implementation(chosen)
    if model.config.model_type in ("qwen2_5_vl", "qwen2_vl"):
        # the layer as it is known here; Qwen3 normalises its keys
        layers = model.model.language_model.layers
        layers[-1] = _LastToken(layers[-1], apply_rotary_pos_emb)
