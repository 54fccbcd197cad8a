"""Attention without waste, the same numbers. Registered with transformers by name.

Vision: Qwen2.5-VL looks at an image through windows of 8 x 8 patches, and transformers calls the
attention once a window and layer (84 times a layer for 1280 x 720) where no flash attention is
installed. Here windows of one size go together in one call. The name contains `flash` because
transformers hands the boundaries of the windows over, instead of cutting, to such names only.

Language: the prompt's rest meets a cached prefix, so transformers makes a full mask, and with a
mask every query meets every key although half of them are masked. On a CPU the queries are taken
in blocks, each with the keys it can see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

__all__ = ["LANGUAGE", "VISION", "use"]

VISION = "earlyfire_flash_windows"
LANGUAGE = "earlyfire_blocks"

BLOCK = 192
"""Queries at a time: few enough to leave out most of what is masked, many enough for the CPU."""


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


def blocks_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Batch x heads x queries x width -> batch x queries x heads x width, causal: the last query
    sees every key. `attention_mask` as sdpa_mask makes it, None where all is seen that may be."""
    groups = module.num_key_value_groups
    queries, keys = query.shape[2], key.shape[2]
    if queries == 1:
        # all heads of a group ask as if they were further queries: no copy of keys and values
        batch, heads, _, width = query.shape
        packed = query.reshape(batch, heads // groups, groups, width)
        out = attend(packed, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(batch, heads, 1, width).transpose(1, 2), None
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    if attention_mask is None:
        assert queries == keys
        out = attend(query, key, value, is_causal=True, scale=scaling)
        return out.transpose(1, 2), None
    blocks = []
    for start in range(0, queries, BLOCK):
        end = min(start + BLOCK, queries)
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


AttentionInterface.register(VISION, windows_attention)
AttentionInterface.register(LANGUAGE, blocks_attention)
AttentionMaskInterface.register(LANGUAGE, sdpa_mask)


def use(model: Any) -> None:
    """Take these for a model that was loaded with sdpa."""
    chosen = {}
    if hasattr(model.config.vision_config, "fullatt_block_indexes"):
        chosen["vision_config"] = VISION
    if model.device.type == "cpu":
        chosen["text_config"] = LANGUAGE
    if chosen:
        model.set_attn_implementation(chosen)
