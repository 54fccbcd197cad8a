"""Bringing a Qwen-VL model into memory. Imports without torch, which `doctor` may lack.

Before gigabytes are moved everything that can be known is checked: what is installed, what the
checkpoint is, and whether it fits into what is free.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyfire_stream.errors import UsageError
from earlyfire_stream.verdict import CoordSpace
from earlyfire_stream.worker.ask import Card

if TYPE_CHECKING:
    import torch

    from earlyfire_stream.worker.generate import Brain

__all__ = ["INSTALL", "ModelSettings", "free_bytes", "load_model", "memory_advice"]

INSTALL = "pip install -e '.[hf]' (in the folder of earlyfire-stream)"
GB = 1_000_000_000
DTYPES = ("auto", "bfloat16", "float32")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")

FAMILIES = {
    "qwen2_5_vl": CoordSpace.RESIZED_ABS,
    "qwen2_vl": CoordSpace.REL1000,
    "qwen3_vl": CoordSpace.REL1000,
}
"""transformers' model types, and how each writes its boxes."""
CLIPS = {"qwen2_5_vl", "qwen2_vl"}
"""Qwen3-VL writes each frame's time as text between the frames; not built here."""

NEEDS_GB = ((3, 10, 6), (7, 24, 16), (32, 80, 32), (72, 160, 56))
"""Nominal billions, GB free in 16 bit, in 4 bit: weights, caches of a batch, and the vision
tower's largest tensors."""
ADVISED = "Qwen/Qwen2.5-VL-{}B-Instruct"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model, and how it is loaded. ValueError for what cannot be."""

    model: str
    """A folder, or a name on the Hugging Face hub."""
    dtype: str = "auto"
    """auto (bfloat16; on a CPU whichever is faster there), bfloat16 or float32. Never float16, in
    which Qwen-VL writes only `!`."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    attention: str = "auto"
    """auto (torch's own, without what it wastes on Qwen), sdpa, eager or flash_attention_2."""
    four_bit: bool = False
    min_visual_tokens: int = 4
    max_visual_tokens: int = 16384
    """Clipped to what the checkpoint says."""
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}")
        if not 1 <= self.min_visual_tokens <= self.max_visual_tokens:
            raise ValueError("visual tokens need a range: 1 <= min <= max")


def _needed_gb(params_billion: float, four_bit: bool, float32: bool) -> float:
    if params_billion < 1.5:
        return 0.5 + params_billion * (8 if float32 else 4)
    # nominal sizes leave the vision tower out: a 7B has 8.3 billion parameters
    fitting = [row for row in NEEDS_GB if params_billion <= row[0] * 1.3]
    sixteen, four = fitting[0][1:] if fitting else (params_billion * 2.3, params_billion * 0.8)
    if four_bit:
        return four
    return sixteen * 2 if float32 else sixteen


def memory_advice(
    params_billion: float, four_bit: bool, free_bytes: int, float32: bool = False
) -> str | None:
    """None if a model of that size fits into what is free, else what to do instead.

    7B with 12 GB free -> "... needs about 24 GB free, there are 12.0 GB; take
    Qwen/Qwen2.5-VL-3B-Instruct (10 GB)".
    """
    needed = _needed_gb(params_billion, four_bit, float32)
    if free_bytes >= needed * GB:
        return None
    how = "4 bit" if four_bit else "32 bit" if float32 else "16 bit"
    said = (
        f"a model of {params_billion:.1f} billion parameters in {how} needs about {needed:.3g} GB "
        f"free, there are {free_bytes / GB:.1f} GB"
    )
    smaller = [
        (nominal, need, bits)
        for nominal, sixteen, four in reversed(NEEDS_GB)
        for need, bits in ((sixteen, ""), (four, " in 4 bit (--four-bit)"))
        if need < needed and need * GB <= free_bytes and nominal <= params_billion * 1.01
    ]
    if not smaller:
        return f"{said}; even the 3B model needs 10 GB, or 6 GB in 4 bit: free some or use Ollama"
    nominal, need, bits = smaller[0]
    return f"{said}; take {ADVISED.format(nominal)}{bits}, which needs {need} GB"


def free_bytes(device: str) -> int | None:
    """Free memory of `cpu` or a CUDA device; None where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


def load_model(settings: ModelSettings, say: Callable[[str], None]) -> Brain:
    """Blocking, for seconds to minutes (a download: more). UsageError with its remedy where it
    cannot be. `say` gets lines for a person."""
    for needed in ("torch", "transformers", "accelerate", "llguidance"):
        if importlib.util.find_spec(needed) is None:
            raise UsageError(f"the worker needs {needed}: {INSTALL}")
    import torch
    import transformers

    quiet: Any = transformers.utils.logging
    quiet.disable_progress_bar()
    began = time.perf_counter()
    device = _device(settings)
    local = _where(settings, say)
    origin: dict[str, Any] = {"revision": settings.revision, "local_files_only": local}
    try:
        config = transformers.AutoConfig.from_pretrained(settings.model, **origin)
    except (OSError, ValueError) as error:
        raise UsageError(_not_found(settings, error)) from error
    family = str(config.model_type)
    if family not in FAMILIES:
        raise UsageError(
            f"{settings.model} is a {family} model; the worker runs Qwen-VL models, "
            f"for example {ADVISED.format(7)}"
        )
    _check_extras(settings, device)
    dtype = _dtype(settings, device)
    _check_memory(settings, local, device, dtype, say)

    kwargs: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if settings.attention != "auto":
        kwargs["attn_implementation"] = settings.attention
    if settings.four_bit:
        quantization: Any = transformers.BitsAndBytesConfig
        kwargs["quantization_config"] = quantization(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(settings.model, **origin)
        preprocessing = _json_file(settings, local, "preprocessor_config.json")
        template = _json_file(settings, local, "chat_template.json", optional=True)
        model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            settings.model, **origin, **kwargs
        )
    except (OSError, ValueError) as error:
        raise UsageError(_not_found(settings, error)) from error
    except torch.OutOfMemoryError as error:
        raise UsageError(f"{settings.model} does not fit into the memory of {device}") from error
    if getattr(tokenizer, "chat_template", None) is None:
        tokenizer.chat_template = template.get("chat_template")
    if settings.attention == "auto":
        from earlyfire_stream.worker import attention

        attention.use(model)
    brain = build_brain(model.eval(), tokenizer, preprocessing, settings)
    card = brain.card
    say(
        f"loaded {settings.model}: {card.parameters / 1e9:.2f} billion parameters, {card.dtype}"
        f"{' weights in 4 bit' if settings.four_bit else ''}, on {card.device}, "
        f"attention {card.attention}, {card.min_visual_tokens} to {card.max_visual_tokens} visual "
        f"tokens, in {time.perf_counter() - began:.1f} s"
    )
    return brain


def build_brain(
    model: Any, tokenizer: Any, preprocessing: dict[str, Any], settings: ModelSettings
) -> Brain:
    """The brain around a model that is in memory already. UsageError where its files disagree."""
    from earlyfire_stream.worker.generate import Brain
    from earlyfire_stream.worker.grammar import GrammarMaker
    from earlyfire_stream.worker.layout import Family, Layout
    from earlyfire_stream.worker.pixels import PatchRules

    config = model.config
    text = config.get_text_config()
    family = str(config.model_type)
    if tokenizer.chat_template is None:
        raise UsageError(f"{settings.model} has no chat template")
    try:
        rules = PatchRules.from_config(
            preprocessing, settings.min_visual_tokens, settings.max_visual_tokens
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{settings.model}: preprocessor_config.json: {error!r}") from error
    known = Family(
        image_token=int(config.image_token_id),
        video_token=int(config.video_token_id),
        vision_start=int(config.vision_start_token_id),
        clips=family in CLIPS,
        timed=family == "qwen2_5_vl",
        tokens_per_second=float(getattr(config.vision_config, "tokens_per_second", 1)),
        max_tokens=int(text.max_position_embeddings),
    )
    stops = _stops(model, tokenizer)
    card = Card(
        model=settings.model,
        family=family,
        coord_space=FAMILIES[family],
        min_visual_tokens=rules.min_tokens,
        max_visual_tokens=rules.max_tokens,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        attention=settings.attention if settings.attention != "auto" else "sdpa, windows together",
        four_bit=settings.four_bit,
        clips=known.clips,
        parameters=int(model.num_parameters()),
    )
    return Brain(
        model,
        Layout(tokenizer, known, rules),
        GrammarMaker(tokenizer, int(text.vocab_size), stops),
        card,
        stops,
        padding=stops[0],
    )


def _stops(model: Any, tokenizer: Any) -> tuple[int, ...]:
    said = getattr(model.generation_config, "eos_token_id", None)
    found = said if isinstance(said, list) else [said]
    return tuple(dict.fromkeys(int(t) for t in (*found, tokenizer.eos_token_id) if t is not None))


def _device(settings: ModelSettings) -> str:
    import torch

    if settings.device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {settings.device}: this torch sees no CUDA device")
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise UsageError(f"--device {settings.device}: {error}") from error
    return "cuda:0" if str(device) == "cuda" else str(device)


def _where(settings: ModelSettings, say: Callable[[str], None]) -> bool:
    """Whether only local files may be read; says where they come from."""
    from huggingface_hub import constants

    if Path(settings.model).is_dir():
        say(f"model files: {Path(settings.model).resolve()}")
        return True
    if settings.model.startswith((".", "/", "~")):
        raise UsageError(f"there is no folder {settings.model} with a model in it")
    home = os.environ.get("HF_HOME")
    say(f"HF_HOME: {home or f'not set, so {constants.HF_HOME}'}")
    offline = bool(constants.HF_HUB_OFFLINE)
    source = "offline, from the cache alone" if offline else "from the hub where not cached yet"
    say(f"model files: {constants.HF_HUB_CACHE} ({source})")
    return offline


def _not_found(settings: ModelSettings, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{settings.model} cannot be loaded: {first[:400]}; is it a folder, or a name on the hub "
        f"such as {ADVISED.format(7)}? Fetch it where there is a network with `hf download "
        f"{settings.model}`, and set HF_HOME to where it lies"
    )


def _check_extras(settings: ModelSettings, device: str) -> None:
    if settings.four_bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UsageError("4 bit needs bitsandbytes: pip install bitsandbytes")
        if not device.startswith("cuda"):
            raise UsageError("4 bit needs a CUDA device; on a CPU, Ollama runs 4-bit models")
    if settings.attention == "flash_attention_2" and not importlib.util.find_spec("flash_attn"):
        raise UsageError("flash_attention_2 needs flash-attn: pip install flash-attn; or use sdpa")


def _dtype(settings: ModelSettings, device: str) -> torch.dtype:
    import torch

    if settings.dtype != "auto":
        found = getattr(torch, settings.dtype)
        assert isinstance(found, torch.dtype)
        return found
    if device != "cpu":
        return torch.bfloat16
    # some CPUs have instructions for bfloat16; on others it is emulated, a hundred times slower
    return (
        torch.bfloat16 if _product_s(torch.bfloat16) < _product_s(torch.float32) else torch.float32
    )


def _product_s(dtype: torch.dtype) -> float:
    """Seconds for a small matrix product, the best of ten.

    Of fewer a busy machine may disturb all, and a worker that is started again would answer in
    another precision.
    """
    import torch

    one = torch.ones((256, 256), dtype=dtype)
    took = []
    for _ in range(11):
        began = time.perf_counter()
        one @ one
        took.append(time.perf_counter() - began)
    return min(took[1:])


def _check_memory(
    settings: ModelSettings,
    local: bool,
    device: str,
    dtype: torch.dtype,
    say: Callable[[str], None],
) -> None:
    import torch

    parameters = _parameters(settings, local)
    free = free_bytes(device)
    if parameters is None or free is None:
        say("how much memory the model needs could not be told beforehand")
        return
    float32 = dtype is torch.float32
    advice = memory_advice(parameters / 1e9, settings.four_bit, free, float32)
    if advice is not None:
        raise UsageError(f"{settings.model} on {device}: {advice}")


def _parameters(settings: ModelSettings, local: bool) -> int | None:
    """Of the weights, from the headers of their files; None where there are no such files."""
    folder = _folder(settings, local)
    if folder is None:
        return _parameters_on_the_hub(settings)
    count = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            try:
                header = json.loads(opened.read(min(length, 100_000_000)))
                for name, entry in header.items():
                    if name != "__metadata__":
                        numbers = 1
                        for side in entry["shape"]:
                            numbers *= int(side)
                        count += numbers
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{file} is no safetensors file: {error}") from error
    return count or None


def _folder(settings: ModelSettings, local: bool) -> Path | None:
    """Where the weights lie on this machine; None if they would have to be fetched."""
    if Path(settings.model).is_dir():
        return Path(settings.model)
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors.index.json", "model.safetensors"):
        found = try_to_load_from_cache(settings.model, name, revision=settings.revision)
        if isinstance(found, str):
            folder = Path(found).parent
            shards = len(list(folder.glob("*.safetensors")))
            if local or name == "model.safetensors" or shards == _shards(Path(found)):
                return folder
    return None


def _shards(index: Path) -> int:
    return len(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))


def _parameters_on_the_hub(settings: ModelSettings) -> int | None:
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )

    try:
        found = huggingface_hub.get_safetensors_metadata(settings.model, revision=settings.revision)
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError):
        return None  # loading will say what is wrong, in its own words
    return sum(found.parameter_count.values())


def _json_file(
    settings: ModelSettings, local: bool, name: str, optional: bool = False
) -> dict[str, Any]:
    from transformers.utils.hub import cached_file

    path = cached_file(
        settings.model,
        name,
        revision=settings.revision,
        local_files_only=local,
        _raise_exceptions_for_missing_entries=not optional,
    )
    if path is None:
        return {}
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a JSON object")
    return found
